"""Descriptions of reports, names of clusters and logs."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.inspection.blocks import (
    Lines,
    check_end,
    damaged,
    foreign,
    read_text,
    titled,
)

LOG_LINES = 10  # number of last lines of a log to show


def page(path: Path) -> Lines:
    """Describe a report or another HTML page.

    Raises:
        InputError: the page is truncated, or not written by this workflow.
    """
    text = read_text(path)
    if "MaskDistill</title>" not in text:
        raise foreign(path, "a page with another title than its pages")
    check_end(path, text, "</html>")
    title = text.partition("<title>")[2].partition("</title>")[0]
    size = terminal.size(path.stat().st_size)
    return titled(path, f"page for a browser, {size}: {title}")


def cluster_names(path: Path) -> Lines:
    """Describe a file with names of clusters.

    Raises:
        InputError: the file is damaged, or has no names of clusters.
    """
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not valid YAML ({reason}); correct it") from error
    if isinstance(content, Mapping) and isinstance(content.get("seeds"), Mapping):
        check_end(path, text)
        return _names(path, content["seeds"])
    raise foreign(path, "YAML, but no names of clusters")


def _names(path: Path, seeds: Mapping) -> Lines:
    yield terminal.plain(path)
    yield f"  names of clusters, of {len(seeds)} seed{'s' * (len(seeds) != 1)}"
    try:
        for seed, values in seeds.items():
            pairs = [("assignments", values.get("assignments", "–"))]
            pairs += [(str(cluster), name) for cluster, name in values["clusters"].items()]
            yield from ["", f"  seed {seed}", *terminal.facts(pairs, indent=4)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged, or no names of clusters ({error}); see config/README.md"
        ) from error


def log(path: Path) -> Lines:
    """Show the end of a job's log, where a failed job reports its error.

    Raises:
        InputError: the file is not a text.
    """
    # A killed job may have left invalid UTF-8.
    text = path.read_bytes().decode("utf-8", errors="replace")
    if "\0" in text:
        raise damaged(path, "it contains null characters")
    # Only the last state of a progress bar is shown.
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n") if line.strip()]
    shown = [f"    {terminal.plain(line)}" for line in lines[-LOG_LINES:]]
    if len(lines) > len(shown):
        shown.insert(0, "    …")
    count = f"{len(lines):,} line{'s' * (len(lines) != 1)}"
    return titled(path, f"log of a job: {count}", ["", *shown] if shown else [])
