"""Descriptions of JSON, JSON lines and CSV: COCO files, scores, histories, exports."""

import collections
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.json_io import leaves
from workflow_scripts.maskdistill.files.provenance import ENDING
from workflow_scripts.maskdistill.files.provenance import read as read_record
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.inspection.blocks import (
    Lines,
    check_end,
    counts,
    damaged,
    distributions,
    foreign,
    provenance,
    read_text,
    titled,
    value,
)

# Titles of small files about datasets and trainings.
_MARKERS = {
    "complete.json": "marker of a generated dataset that is complete",
    "downloaded.json": "marker of a downloaded dataset that is complete",
    "fingerprint.json": (
        "settings and inputs that identify a training; their digest is the name of its folder"
    ),
}
_COCO_RESULT = {"image_id", "category_id", "score"}


def json_file(path: Path) -> Lines:
    """Describe any JSON file of this workflow.

    Raises:
        InputError: the file is damaged, or not written by this workflow.
    """
    content = read(path)
    if isinstance(content, Mapping):
        if isinstance(content.get("annotations"), list):
            return _coco_dataset(path, content)
        if {"steps", "class_names"} <= content.keys():
            return _metrics(path, content)
        if {"stage", "settings", "versions"} <= content.keys():
            name = path.name.removesuffix(ENDING)
            return titled(path, f"how {name} was made", provenance(content))
        if path.name in _MARKERS:
            lines = terminal.facts([(k, value(v)) for k, v in leaves(content)], indent=4)
            return titled(path, _MARKERS[path.name], ["", *lines])
    if isinstance(content, list) and content and _all_have(content, _COCO_RESULT):
        return _coco_results(path, content)
    raise foreign(path, "JSON with other content than its files")


def read(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, "not valid JSON", error) from error


def _all_have(entries: Sequence[object], keys: set[str]) -> bool:
    return all(isinstance(entry, Mapping) and keys <= entry.keys() for entry in entries)


def _coco_dataset(path: Path, content: Mapping) -> Lines:
    annotations, listed = content["annotations"], content.get("images", [])
    names = {c["id"]: c["name"] for c in content.get("categories", [])}
    yield terminal.plain(path)
    yield (
        f"  COCO dataset: {len(listed):,} images, {len(annotations):,} annotations, "
        f"{len(names)} categories"
    )
    yield from provenance(read_record(path) or {})
    with_any = {annotation["image_id"] for annotation in annotations}
    orphans = len(with_any - {image["id"] for image in listed})
    yield from ["", f"  {len(listed) - len(with_any) + orphans:,} images without annotation"]
    if orphans:
        yield f"  CAUTION: {orphans:,} images have annotations, but are not listed as images"
    yield from _annotations(annotations, names)


def _coco_results(path: Path, content: Sequence[Mapping]) -> Lines:
    pictures = len({entry["image_id"] for entry in content})
    yield terminal.plain(path)
    yield f"  COCO results: {len(content):,} scored masks of {pictures:,} images"
    yield from _annotations(content, {})


def _annotations(entries: Sequence[Mapping], names: Mapping[int, str]) -> Lines:
    columns = {
        name: np.array([e[name] for e in entries if isinstance(e.get(name), int | float)])
        for name in ("score", "area")
    }
    yield from distributions(columns)
    sizes = collections.Counter(entry["category_id"] for entry in entries)
    yield from counts(
        "category",
        {f"{i} {names.get(i, '')}".strip(): count for i, count in sizes.items()},
    )


def _metrics(path: Path, content: Mapping) -> Lines:
    runs = content.get("runs")
    what = f"mean scores over {runs} runs" if runs else "scores"
    yield terminal.plain(path)
    yield f"  {what} of {content['images']:,} images of the split '{content['split']}'"
    if matched := content.get("matched_on"):
        images = f"{matched['images']:,} images of the split '{matched['split']}'"
        yield f"  class-aware scores use the matching of clusters and classes on {images}"
    yield from provenance(content.get("provenance", {}))
    steps = content["steps"]
    found = {name: dict(_leaves(step)) for name, step in steps.items()}
    names = dict.fromkeys(metric for leaves in found.values() for metric in leaves)
    rows = [[metric, *(_score(found[step].get(metric)) for step in steps)] for metric in names]
    yield from ["", *terminal.table(["", *steps], rows), "  fractions are in percent"]


# Nested tables that are too long to list.
_LONG = ("per_class", "confusion_matrix", "calibration", "clusters", "classes")


def _leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values of a step's scores: numbers, texts, and means with sd."""
    for key, found in tree.items():
        name = f"{prefix}{key}"
        if key in _LONG:
            continue
        if isinstance(found, Mapping) and not {"mean", "sd"} <= found.keys():
            yield from _leaves(found, f"{name}.")
        elif isinstance(found, list):
            if all(isinstance(item, str) for item in found):
                yield name, ", ".join(found)
        else:
            yield name, found


def _score(found: object) -> str:
    """A fraction, or mean and sd of fractions, in percent; other values are not changed."""
    if isinstance(found, Mapping):
        number = found["mean"]
        spread = "" if found["sd"] is None else f" ± {100 * found['sd']:.1f}"
        return _score(number) + (spread if number is not None and 0 <= number <= 1 else "")
    if isinstance(found, float) and 0 <= found <= 1:
        return f"{100 * found:.1f}"
    return terminal.number(found) if isinstance(found, int | float | None) else str(found)


def loss_history(path: Path) -> Lines:
    """Describe a loss history with one JSON object per line.

    Raises:
        InputError: the file is damaged, or not a loss history.
    """
    text = read_text(path)
    try:
        rows = [json.loads(line) for line in text.splitlines()]
        lines = list(_losses(path, _as_columns(rows), len(rows)))
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise damaged(path, "not lines of JSON", error) from error
    check_end(path, text)
    return iter(lines)


def csv_file(path: Path) -> Lines:
    """Describe a loss history, a list of rejected images, or another table.

    Raises:
        InputError: the file is damaged.
    """
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
        header = list(reader.fieldnames or [])
    except csv.Error as error:
        raise damaged(path, "not CSV", error) from error
    check_end(path, text)
    if any(None in row or None in row.values() for row in rows):
        raise damaged(path, "a row has fewer or more cells than the header")
    if {"step", "loss"} <= set(header):
        try:
            return _losses(path, _as_columns(rows), len(rows))
        except ValueError as error:
            raise damaged(path, "its losses are not all numbers", error) from error
    if "status" in header:
        reasons = counts("status", collections.Counter(row["status"] for row in rows))
        return titled(path, f"unusable images: {len(rows):,}", list(reasons))
    return titled(path, f"table: {len(rows):,} rows", _cells(header, rows))


def _cells(header: Sequence[str], rows: Sequence[Mapping]) -> list[str]:
    return ["", *terminal.table(header, [[row[name] for name in header] for row in rows])]


def _as_columns(rows: Sequence[Mapping]) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: np.array([float(row[name]) for row in rows if row.get(name) not in (None, "")])
        for name in names
    }


def _losses(path: Path, columns: Mapping[str, np.ndarray], count: int) -> Lines:
    if not {"step", "loss"} <= columns.keys():
        raise foreign(path, "a loss history has `step` and `loss`, but this file does not")
    yield terminal.plain(path)
    last = terminal.number(columns["step"][-1])
    yield f"  loss history of a training: {count:,} rows, to step {last}"
    rows = []
    for name, values in columns.items():
        if name != "step" and values.size:
            parts = np.array([part.mean() for part in np.array_split(values, min(30, values.size))])
            rows.append([name, values[0], values.min(), values[-1], terminal.trend(parts)])
    yield from ["", *terminal.table(["", "first", "least", "last", "trend"], rows)]


def benchmark(path: Path) -> Lines:
    """Describe a benchmark file of Snakemake: time and memory of a job.

    Raises:
        InputError: the file is damaged, or not a benchmark of Snakemake.
    """
    text = read_text(path)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
    if not rows or not {"s", "max_rss"} <= rows[0].keys():
        raise foreign(path, "a table, but not a benchmark of Snakemake")
    check_end(path, text)
    return titled(path, f"benchmark of a job: {rows[0]['s']} s, {rows[0]['max_rss']} MB")
