"""Print a table of every config key with its default and its meaning, as it is in config/README.md.

Usage: python -m workflow_scripts.describe_config
"""

import argparse
import json
from collections.abc import Iterator, Mapping

from workflow_scripts import cli
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings.config import read_yaml

FOLDER = REPOSITORY / "config"


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit code 0."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    print(table())
    return 0


def table() -> str:
    """The table of all keys, in Markdown."""
    default = read_yaml(FOLDER / "default.yaml")
    workflow = read_yaml(FOLDER / "schemas" / "workflow.schema.yaml")
    del workflow["properties"]["defaults"]
    dataset = read_yaml(FOLDER / "schemas" / "dataset.schema.yaml")
    rows = [*keys(workflow, default), *keys(dataset, default["defaults"])]
    lines = [f"| `{key}` | `{value}` | {meaning} |" for key, value, meaning in rows]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *lines])


def keys(schema: Mapping, default: Mapping, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default as JSON, and meaning of everything that a schema describes."""
    for name, part in schema["properties"].items():
        value = default.get(name)
        if part.get("type") == "object" and value and "properties" in part:
            yield from keys(part, value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value), part["description"].strip()


if __name__ == "__main__":
    cli.run(main)
