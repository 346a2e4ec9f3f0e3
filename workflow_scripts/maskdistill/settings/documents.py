"""Files that are generated from the classes of the settings: defaults, schemas, tables of keys."""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from workflow_scripts.maskdistill.settings.backbones import FAMILIES
from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS
from workflow_scripts.maskdistill.settings.section import Section
from workflow_scripts.maskdistill.settings.whole_config import DatasetConfig, WorkflowConfig

_WIDTH = 100  # characters in a line of the generated files
_HEADER = """\
The settings of the workflow, with the values of the paper. The file of a dataset,
config/datasets/NAME.yaml, overrides them. config/README.md explains how to use them.
"""
_END_OF_SCALAR = "...\n"  # PyYAML writes this after a single value
_TABLE_BEGINS = "## All keys\n"
_FORMATS = re.compile(r"(\| folder \|.*\n\| --- .*\n)(\|.*\n)*?(?=\| `model` )")
_FAMILIES = re.compile(r"(\| family \|.*\n\| --- .*\n)(\|.*\n)*")
_COMMAND = "python -m workflow_scripts.describe_config"
_TABLE_IS_WRITTEN = f"""\
Every key is defined in one place, the file of its section in
`workflow_scripts/maskdistill/settings/sections/`. After a change there,
`{_COMMAND}` writes this table, `default.yaml` and the schemas.
"""


class _Key(NamedTuple):
    """A key of the config, or the beginning of one of its sections."""

    path: tuple[str, ...]
    default: Any  # a JSON value; also None if there is no default
    description: str
    is_section: bool


def documents(folder: Path) -> dict[Path, str]:
    """The files that are generated from the settings, with their content.

    Args:
        folder: folder config/; in its README.md only the tables of keys, of export formats and of
            families of backbones are replaced.
    """
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8").partition(_TABLE_BEGINS)[0]
    text = _FORMATS.sub(lambda found: found[1] + export_formats(), text)
    text = _FAMILIES.sub(lambda found: found[1] + backbone_families(), text)
    return {
        folder / "default.yaml": default_yaml(),
        folder / "schemas" / "dataset.schema.yaml": _yaml(dataset_schema()),
        folder / "schemas" / "workflow.schema.yaml": _yaml(workflow_schema()),
        readme: f"{text}{_TABLE_BEGINS}\n{_TABLE_IS_WRITTEN}\n{table()}\n",
    }


def default_yaml() -> str:
    """config/default.yaml: every key with its default and its description as a comment."""
    lines = [*_comment(_HEADER, "")]
    for key in _keys(WorkflowConfig):
        indent = "  " * (len(key.path) - 1)
        name = f"{indent}{key.path[-1]}:"
        if key.is_section:
            lines += ["", *_comment(key.description, indent), name]
            continue
        value = yaml.safe_dump(key.default, default_flow_style=True, width=10_000)
        line = f"{name} {value.removesuffix(_END_OF_SCALAR).strip()}"
        if len(key.path) == 1 or (key.path[0] == "defaults" and len(key.path) == 2):
            lines.append("")
        if len(f"{line} # {key.description}") <= _WIDTH:
            lines.append(f"{line} # {key.description}")
        else:
            lines += [*_comment(key.description, indent), line]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=start)


def table() -> str:
    """The table of all keys, in Markdown."""
    rows = [
        f"| `{'.'.join(key.path).removeprefix('defaults.')}` | `{json.dumps(key.default)}` "
        f"| {key.description} |"
        for key in _keys(WorkflowConfig)
        if not key.is_section
    ]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def export_formats() -> str:
    """The rows of the table of export formats, in Markdown."""
    return "".join(
        f"| `{name}` | {found.opened_with} | {found.holds} |\n"
        for name, found in EXPORT_FORMATS.items()
    )


def backbone_families() -> str:
    """The rows of the table of families of backbones, in Markdown."""
    centring = {True: "yes", False: "no", None: "not known"}
    return "".join(
        f"| {one.title} | {one.shorter_side} | {centring[one.center_keys]} | {one.basis} |\n"
        for one in FAMILIES
    )


def _keys(kind: type[Section], above: tuple[str, ...] = ()) -> Iterator[_Key]:
    """All keys of a section and of its nested sections, in order."""
    for name, field in kind.model_fields.items():
        path = (*above, name)
        inner = field.annotation
        if path == ("defaults",):
            yield _Key(path, None, field.description, is_section=True)
            yield from _keys(DatasetConfig, path)
        elif isinstance(inner, type) and issubclass(inner, Section) and field.default != {}:
            yield _Key(path, None, inner.__doc__, is_section=True)
            yield from _keys(inner, path)
        else:
            default = None if field.is_required() else json.loads(json.dumps(field.default))
            yield _Key(path, default, field.description, is_section=False)


def dataset_schema() -> dict:
    """A JSON schema of the file of a dataset, in which every key is optional."""
    schema = _schema(DatasetConfig)
    extends = {"description": "Another dataset, whose file this one overrides.", "type": "string"}
    preset = {
        "description": "Settings that go between the defaults and this file: the name of a file in "
        "config/presets/.",
        "type": "string",
    }
    schema["properties"] = {"extends": extends, "preset": preset, **schema["properties"]}
    return schema


def workflow_schema() -> dict:
    """A JSON schema of config/default.yaml and of files that override it."""
    schema = _schema(WorkflowConfig)
    for name in ("overrides", "defaults"):
        described = schema["properties"][name]["description"]
        schema["properties"][name] = {"description": described, "$ref": "dataset.schema.yaml"}
    return schema


def _schema(kind: type[Section]) -> dict:
    schema = kind.model_json_schema()
    return _inlined(schema, schema.pop("$defs"))


def _inlined(node: Any, definitions: dict) -> Any:
    """A copy of a JSON schema with references resolved, and without `required` and titles."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    return {
        key: _inlined(value, definitions)
        for key, value in node.items()
        if key not in ("$ref", "discriminator", "required")
        and not (key == "title" and isinstance(value, str))
        and not (key == "default" and ("properties" in node or value is None))
    }


def _yaml(schema: dict) -> str:
    return f"# Written by {_COMMAND}.\n" + yaml.safe_dump(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema},
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=_WIDTH,
    )
