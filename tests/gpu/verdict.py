"""The results of all parts of the GPU tests as Markdown, for docs/measurements.md."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def read(path: Path) -> list[dict]:
    """The lines that `conftest` recorded for one part; an incomplete last line is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def lines(parts: Mapping[str, Iterable[dict]]) -> Iterator[str]:
    """A line about the machine, a line with numbers of tests, and a table of all parts."""
    rows, counts, machines = [], Counter(), {}
    for part, records in parts.items():
        records = list(records)
        for record in records:
            if "machine" in record:
                text = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
                machines[text.removeprefix("device ")] = None
            else:
                counts[record["outcome"]] += 1
                rows += list(_rows(part, record))
        if not any("test" in record for record in records):
            rows.append((part, "", "", "", "**not run**"))
            counts["part not run"] += 1
    yield "; ".join(machines)
    yield ""
    yield ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    yield ""
    yield "| part | check | measured | bound | verdict |"
    yield "| --- | --- | --: | --: | --- |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |"


def _rows(part: str, record: Mapping) -> Iterator[tuple[str, ...]]:
    """One row per measurement; one for a test that was skipped, failed or measured nothing."""
    for one in record["measured"]:
        value = f"{one['value']:.4g}"
        yield part, one["what"], value, one["bound"], "kept" if one["kept"] else "**not kept**"
    name = record["test"].removeprefix("test_").replace("_", " ")
    if record["outcome"] == "skipped":
        yield part, name, "", "", f"skipped: {record['reason']}"
    elif record["outcome"] == "failed" and all(one["kept"] for one in record["measured"]):
        yield part, name, "", "", f"**failed**: {record['reason']}"
    elif not record["measured"]:
        yield part, name, "", "", record["outcome"]
