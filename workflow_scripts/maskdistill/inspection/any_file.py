"""The files that a path stands for, what each is, and an overview of a whole tree."""

import collections
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import images
from workflow_scripts.maskdistill.inspection import (
    image_files,
    json_files,
    model_files,
    parquet_files,
    terminal,
    text_files,
)
from workflow_scripts.maskdistill.inspection.blocks import Lines, damaged, foreign, titled

SAMPLE = 500  # label maps that are decoded, unless all are asked for
# Folders of files that have the names of the dataset's images, with their folders.
UNPACKED = ("label_maps", "predictions", "overlays")
GALLERY_INDEX = "index.js"
LOCK = "lock"  # of a training's folder: always empty
TENSORBOARD = "events.out.tfevents."  # in a training's folder, where Detectron2 trains

READERS: dict[str, Callable[[Path], Lines]] = {
    ".json": json_files.json_file,
    ".jsonl": json_files.json_lines,
    ".csv": json_files.csv_file,
    ".tsv": json_files.benchmark,
    ".html": text_files.page,
    ".js": text_files.gallery_script,
    ".css": text_files.gallery_style,
    ".svg": text_files.figure,
    ".xml": text_files.labelling_interface,
    ".yaml": text_files.yaml_file,
    ".md": text_files.card,
    ".log": text_files.log,
    ".pt": model_files.model,
    ".pth": model_files.model,
    ".safetensors": model_files.model,
    ".onnx": model_files.onnx,
    ".pt2": model_files.exported_program,
}


def expand(path: str) -> list[list[Path]]:
    """The files that a path stands for, those of one kind together.

    Args:
        path: a file, a pattern with `*`, or a folder, which stands for all of its files. Shards
            belong together, and so do the pictures or texts of a folder; a gallery is one thing.

    Raises:
        InputError: nothing is there.
    """
    if Path(path).exists():
        found = [Path(path)]
    else:
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
    groups: dict[tuple, list[Path]] = collections.defaultdict(list)
    for entry in found:
        if not entry.is_dir():
            groups[_group(entry)].append(entry)
            continue
        inside = sorted(f for f in entry.rglob("*") if f.is_file() and f.name[0] != ".")
        galleries = [f.parent for f in inside if f.name == GALLERY_INDEX and _is_gallery(f)]
        for file in inside:
            if any(file.is_relative_to(folder) for folder in galleries):
                if file.name == GALLERY_INDEX:
                    groups[_group(file)].append(file)
                continue
            groups[_group(file, entry)].append(file)
    if not groups:
        what = "an empty folder" if found else "no such file or folder"
        raise InputError(f"{path}: {what}; give an output of this workflow, such as results/demo")
    return list(groups.values())


def _group(file: Path, entry: Path | None = None) -> tuple:
    """What files that are described together have in common."""
    suffix = file.suffix.lower()
    if suffix == ".parquet" and file.stem.isdigit():
        return file.parent, suffix
    if entry is not None and (suffix in images.SUFFIXES or text_files.is_label_file(file)):
        parts = file.relative_to(entry).parts
        folder = entry / parts[0] if parts[0] in UNPACKED else file.parent
        return (folder if entry.name not in UNPACKED else entry), suffix
    return (file,)


def _is_gallery(index: Path) -> bool:
    return (index.parent / "gallery.js").is_file()


def describe(paths: Sequence[Path], *, sample: int = SAMPLE, check: bool = False) -> list[str]:
    """Describe files that belong together, as lines of text.

    Args:
        paths: a group of `expand`.
        sample: number of label maps that are decoded for statistics, evenly spread; 0 for all.
        check: also read every byte and decode every mask, label map and picture.

    Raises:
        InputError: a file is missing, damaged, or none of this workflow's.
    """
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        empty = path.stat().st_size == 0
        if empty and path.name == LOCK:
            return [terminal.plain(path), "  lock of a training, which holds it while it runs"]
        # In the image of an empty label file nothing was found, and many jobs print nothing.
        if empty and not text_files.is_label_file(path) and path.suffix != ".log":
            raise InputError(f"{path}: empty file (0 bytes); remove it and run again")
    try:
        return list(_lines(paths, sample, check))
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # What is where nothing of the kind should be.
        where = paths[0] if len(paths) == 1 else paths[0].parent
        reason = f"{type(error).__name__} {error}"
        raise damaged(where, "or made by another version of the workflow", reason) from error


def _lines(paths: Sequence[Path], sample: int, check: bool) -> Lines:
    suffix = paths[0].suffix.lower()
    if paths[0].name.startswith(TENSORBOARD):
        return titled(paths[0], "losses for TensorBoard: tensorboard --logdir checkpoints")
    if suffix == ".parquet":
        return parquet_files.shards_of_a_stage(paths, sample, check=check)
    if suffix in images.SUFFIXES:
        return image_files.pictures(paths, sample, check=check)
    if suffix == ".txt":
        return text_files.text_files(paths)
    if suffix in READERS:
        return READERS[suffix](paths[0])
    raise foreign(paths[0], f"nothing of this workflow ends in {suffix!r}")


def describe_paths(
    paths: Iterable[str], *, sample: int = SAMPLE, check: bool = False
) -> Iterator[tuple[list[str], list[str]]]:
    """Describe everything that the paths stand for, block by block.

    Args:
        sample: see `describe`.
        check: see `describe`.

    Yields:
        The lines of one group of files, or of the overview of a folder with many stages; and what
        is damaged or foreign.
    """
    for path in paths:
        try:
            groups = expand(path)
        except InputError as error:
            yield [], [str(error)]
            continue
        if len(groups) > 2 and len({group[0].parent for group in groups}) > 1:
            lines, faults = overview(groups)
            yield [*lines, "", "  Name one of these paths for what it holds."], faults
            continue
        for group in groups:
            try:
                yield describe(group, sample=sample, check=check), []
            except InputError as error:
                yield [], [str(error)]


def overview(paths: Iterable[Sequence[Path]]) -> tuple[list[str], list[str]]:
    """One line for every group of files of a whole tree.

    Returns:
        The table's lines, and what is damaged or foreign.
    """
    rows, faults = [], []
    for group in paths:
        where = group[0] if len(group) == 1 else group[0].parent
        count = None
        try:
            if group[0].suffix == ".parquet":
                title, count = parquet_files.title_of(group)
            else:
                # A few label maps tell what all of them are.
                title = describe(group, sample=1)[1].strip()
        except InputError as error:
            faults.append(str(error))
            continue
        bytes_ = sum(path.stat().st_size for path in group)
        rows.append([str(where), title, len(group), count, terminal.size(bytes_)])
    # Paths are there to be copied, so that none is cut.
    width = max([60, *(len(row[0]) for row in rows)])
    header = ["path", "what it is", "files", "rows", "size"]
    return terminal.table(header, rows, width=width), faults
