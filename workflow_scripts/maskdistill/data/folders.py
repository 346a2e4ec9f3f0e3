"""The files of a folder tree: images, and other files, which are skipped and counted by type."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.maskdistill.errors import printable
from workflow_scripts.maskdistill.files import images, provenance

# Type under which images with several frames or pages are counted, because only the first is read.
LATER_FRAMES = "frames or pages after the first"


class FoundFile(NamedTuple):
    """A file or folder below a folder; it has not been opened."""

    file_name: str  # POSIX path relative to the root; bytes that are not UTF-8 are escaped
    skipped: str | None  # type under which it is counted as skipped; None for an image


def walk(folder: Path, root: Path) -> Iterator[FoundFile]:
    """All files below a folder, at any depth, and the folders that are not entered.

    A file counts as an image if its suffix is one of an image format, in upper or lower case. Links
    are followed, except a link to a folder that contains the link.

    Args:
        root: folder that the names are relative to.
    """
    above = {str(folder): frozenset([_identity(folder)])}  # ancestors of folders still to visit
    closed: list[OSError] = []
    for directory, folders, files in os.walk(folder, followlinks=True, onerror=closed.append):

        def found(name: str, skipped: str | None, directory: str = directory) -> FoundFile:
            path = Path(directory, name).relative_to(root).as_posix()
            readable = os.fsencode(path).decode(errors="backslashreplace")
            if readable != path:
                return FoundFile(readable, "with a name that is not UTF-8")
            return FoundFile(path, skipped)

        path = above.pop(directory)
        kept = []
        for name in sorted(folders):
            inside = os.path.join(directory, name)
            if name.startswith("."):
                yield found(name, "hidden folder")
            elif (identity := _identity(inside)) in path:
                yield found(name, "link to a folder that contains it")
            else:
                above[inside] = path | {identity}
                kept.append(name)
        folders[:] = kept
        for name in files:
            yield found(name, _skipped_type(name))
    for error in closed:
        name = Path(error.filename).relative_to(root).as_posix()
        yield FoundFile(name, f"folder that cannot be opened ({error.strerror})")


def _skipped_type(name: str) -> str | None:
    """The type of a file that is not an image by its name; None for an image."""
    if name.startswith("."):
        return "hidden file"
    if name.lower().endswith(images.SUFFIXES):
        return None
    return os.path.splitext(name)[1].lower() or "without suffix"


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def by_type(skipped: Iterable[FoundFile]) -> dict[str, dict]:
    """What was skipped, by type: how much, and the first name in alphabetical order.

    Returns:
        type → {"count": number, "example": name}, the most frequent type first.
    """
    return merged({kind: {"count": 1, "example": name}} for name, kind in skipped)


def merged(parts: Iterable[Mapping[str, Mapping]]) -> dict[str, dict]:
    """The sum of several results of `by_type`, for instance those of all shards."""
    found: dict[str, dict] = {}
    for part in parts:
        for kind, one in part.items():
            known = found.setdefault(kind, {"count": 0, "example": one["example"]})
            known["count"] += one["count"]
            known["example"] = min(known["example"], one["example"])
    return dict(sorted(found.items(), key=lambda item: (-item[1]["count"], item[0])))


def read_skipped(manifests: Iterable[str | os.PathLike]) -> dict[str, dict]:
    """What was skipped when these manifests were written, as `by_type`."""
    return _read_counts(manifests, "skipped")


def read_one_colour(manifests: Iterable[str | os.PathLike]) -> dict[str, dict]:
    """How many images of one colour these manifests list, as `by_type` with one type."""
    return _read_counts(manifests, "one_colour")


def _read_counts(manifests: Iterable[str | os.PathLike], key: str) -> dict[str, dict]:
    records = (provenance.read(path) or {} for path in manifests)
    return merged(record.get(key, {}) for record in records)


def lines(skipped: Mapping[str, Mapping]) -> list[str]:
    """One line for every type of a result of `by_type`."""
    return [
        f"skipped {one['count']:,} × {kind} (for example {printable(one['example'])})"
        for kind, one in skipped.items()
    ]
