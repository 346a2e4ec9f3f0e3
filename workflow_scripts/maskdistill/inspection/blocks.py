"""Parts of the text that describes a file, for all kinds of files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.json_io import leaves
from workflow_scripts.maskdistill.inspection import terminal

CLUSTERS_SHOWN = 24

Lines = Iterator[str]


def damaged(path: Path, what: str, reason: object = "") -> InputError:
    """The error for a damaged file.

    Args:
        what: what is wrong with the file.
        reason: message of the library that could not read it.
    """
    extra = f" ({' '.join(str(reason).split())})" if str(reason) else ""
    return InputError(f"{path}: damaged, {what}{extra}; remove it and run again")


class ForeignFile(InputError):
    """A file that this workflow does not write."""


def foreign(path: Path, what: str) -> ForeignFile:
    """The error for a file that this workflow does not write."""
    return ForeignFile(f"{path}: not a file of this workflow: {what}; give one of its outputs")


def titled(path: Path, title: str, lines: Sequence[str] = ()) -> Lines:
    """The lines for a file: its path, its title, and its content."""
    yield terminal.plain(path)
    yield f"  {terminal.plain(title)}"
    yield from lines


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        InputError: the text is not UTF-8, or contains null characters.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, "or not a text", error) from error
    if "\0" in text:
        raise damaged(path, "it contains null characters")
    return text


def check_end(path: Path, text: str, end: str = "") -> None:
    """Check that a text is complete: that it ends with `end`, or by default with a line break.

    Raises:
        InputError: the end of the text is missing.
    """
    if not text.endswith(f"{end}\n") and not (end and text.endswith(end)):
        raise damaged(path, "its end is cut off")


_NOT_LISTED = ("settings", "versions", "stage", "inputs")


def provenance(metadata: Mapping) -> Lines:
    """Lines with the settings, checksums and versions of a provenance record."""
    pairs = [(key, value(found)) for key, found in leaves(metadata.get("settings", {}))]
    pairs += [
        (key, value(found))
        for key, found in leaves({k: v for k, v in metadata.items() if k not in _NOT_LISTED})
    ]
    if inputs := metadata.get("inputs"):
        first = next(iter(inputs))
        more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
        pairs.append(("inputs", terminal.plain(f"{first}{more}")))
    versions = metadata.get("versions", {})
    if versions:
        pairs.append(("versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    if pairs:
        yield from ["", "  made with", *terminal.facts(pairs, indent=4)]


def value(found: object) -> str:
    """A setting as text of at most 100 characters."""
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"


def distributions(columns: Mapping[str, np.ndarray]) -> Lines:
    """A table with the quantiles and a histogram of every column of numbers."""
    rows = []
    for name, values in columns.items():
        if values.size:
            finite = values[np.isfinite(values)]
            low, p5, median, p95, high = (
                np.percentile(finite, [0, 5, 50, 95, 100]) if finite.size else [None] * 5
            )
            bad = values.size - finite.size
            label = f"{name} ({bad:,} not finite)" if bad else name
            shape = terminal.histogram(finite)
            rows.append([label, values.size, low, p5, median, p95, high, shape])
    if rows:
        header = ["", "count", "least", "5 %", "median", "95 %", "most", "distribution"]
        yield from ["", *terminal.table(header, rows)]


def counts(title: str, found: Mapping[str, int]) -> Lines:
    """A table of numbers of occurrences, the most frequent first."""
    total = sum(found.values())
    rows = [
        [name, count, f"{count / total:.1%}", terminal.bar(count / total)]
        for name, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
    ]
    if rows:
        yield from ["", *terminal.table([title, "rows", "share", ""], rows)]
