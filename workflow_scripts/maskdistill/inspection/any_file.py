"""Descriptions of a file or of the files in a folder, and an overview of a whole folder."""

import collections
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import images, provenance
from workflow_scripts.maskdistill.files.atomic import FOLDER_MARK
from workflow_scripts.maskdistill.inspection import (
    blocks,
    image_files,
    json_files,
    model_files,
    parquet_files,
    terminal,
    text_files,
)
from workflow_scripts.maskdistill.inspection.blocks import (
    ForeignFile,
    Lines,
    damaged,
    foreign,
    titled,
)

SAMPLE = 500  # default number of label maps that are decoded
LOCK = "lock"  # in the folder of a training; always empty
TENSORBOARD = "events.out.tfevents."  # in the folder of a training with Detectron2
# Values of `stage` in the records of folders whose PNG files are label maps.
LABEL_MAP_STAGES = ("png_label_maps", "applied")

READERS: dict[str, Callable[[Path], Lines]] = {
    ".json": json_files.json_file,
    ".jsonl": json_files.loss_history,
    ".csv": json_files.csv_file,
    ".tsv": json_files.benchmark,
    ".html": text_files.page,
    ".yaml": text_files.cluster_names,
    ".log": text_files.log,
    ".pt": model_files.model,
    ".pth": model_files.model,
    ".safetensors": model_files.model,
    ".onnx": model_files.onnx,
    ".pt2": model_files.exported_program,
}


def expand(path: str) -> list[list[Path]]:
    """The files of a path, in groups of files that are described together.

    The shards of a stage are one group, and so are the pictures of a folder. A folder that one
    program writes as a whole, such as a gallery or an export, is one group. Its first file is the
    provenance record of the folder.

    Args:
        path: a file, a pattern with `*`, or a folder for all of its files.

    Raises:
        InputError: there are no files.
    """
    if Path(path).exists():
        found = [Path(path)]
    else:
        found = [Path(name) for name in sorted(glob.glob(path, recursive=True))]
    groups: dict[tuple, list[Path]] = collections.defaultdict(list)
    for entry in found:
        if not entry.is_dir():
            shard = entry.suffix == ".parquet" and entry.stem.isdigit()
            groups[(entry.parent,) if shard else (entry,)].append(entry)
            continue
        files = sorted(file for file in entry.rglob("*") if file.is_file())
        marked = [file.parent for file in files if file.name == FOLDER_MARK]
        for folder in marked:
            groups[folder, FOLDER_MARK].append(folder / FOLDER_MARK)
        for file in files:
            if file.name.startswith("."):
                continue
            folder = next((folder for folder in marked if file.is_relative_to(folder)), None)
            groups[_group(file) if folder is None else (folder, FOLDER_MARK)].append(file)
    if not groups:
        what = "this folder is empty" if found else "no such file or folder"
        raise InputError(f"{path}: {what}; give an output of this workflow, such as results/demo")
    return list(groups.values())


def _group(file: Path) -> tuple:
    """A key that is equal for files that are described together."""
    suffix = file.suffix.lower()
    if (suffix == ".parquet" and file.stem.isdigit()) or suffix in images.SUFFIXES:
        return file.parent, suffix
    return (file,)


def describe(paths: Sequence[Path], *, sample: int = SAMPLE, check: bool = False) -> list[str]:
    """Describe a group of files as lines of text.

    Args:
        paths: a group from `expand`.
        sample: number of label maps that are decoded for statistics, evenly spread; 0 for all.
        check: also read every byte and decode every mask, label map and picture.

    Raises:
        InputError: a file is missing, damaged, or not written by this workflow.
    """
    if paths[0].name == FOLDER_MARK:
        return list(_folder(paths[0].parent, paths[1:], sample, check))
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        empty = path.stat().st_size == 0
        if empty and path.name == LOCK:
            return [terminal.plain(path), "  lock file, which a training holds while it runs"]
        # Logs are allowed to be empty, as many jobs print nothing.
        if empty and path.suffix != ".log":
            raise InputError(f"{path}: empty file (0 bytes); remove it and run again")
    try:
        return list(_lines(paths, sample, check))
    except ForeignFile:
        if (lines := _recorded(paths[0])) is None:
            raise
        return lines
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # The file has the suffix and keys of a known kind, but unexpected content.
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
    if suffix in READERS:
        return READERS[suffix](paths[0])
    raise foreign(paths[0], f"none of its files has the suffix {suffix!r}")


def _recorded(path: Path) -> list[str] | None:
    """Description from the provenance record of a file or of its folder; None without a record."""
    for place in (path, *path.absolute().parents[:-1]):
        if record := provenance.read(place):
            size = terminal.size(path.stat().st_size)
            part = "" if place == path else f"part of {place}, "
            title = f"{part}written by {record.get('program', record['stage'])}: {size}"
            return list(titled(path, title, list(blocks.provenance(record))))
    return None


def _folder(folder: Path, files: Sequence[Path], sample: int, check: bool) -> Lines:
    """Describe a folder that a program wrote as a whole."""
    record = provenance.read(folder) or {}
    program = record.get("program", record.get("stage", "this workflow"))
    size = terminal.size(sum(file.stat().st_size for file in files))
    title = f"folder written by {program}: {len(files):,} files, {size}"
    yield from titled(folder, title, list(blocks.provenance(record)))
    by_suffix: dict[str, list[Path]] = collections.defaultdict(list)
    for file in files:
        by_suffix[file.suffix.lower()].append(file)
        if check:
            _check(file)
    rows = [
        [suffix, len(found), terminal.size(sum(file.stat().st_size for file in found))]
        for suffix, found in sorted(by_suffix.items())
    ]
    yield from ["", *terminal.table(["suffix", "files", "size"], rows)]
    if record.get("stage") in LABEL_MAP_STAGES and ".png" in by_suffix:
        yield from image_files.labels_of_files(by_suffix[".png"], 0 if check else sample)


def _check(path: Path) -> None:
    """Check one file of a folder that a program wrote as a whole, by reading it.

    Raises:
        InputError: the file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES:
        image_files.decode(path)
    elif suffix == ".json":
        json_files.read(path)
    elif suffix in (".onnx", ".pt2"):
        list(READERS[suffix](path))
    else:
        blocks.read_text(path)


def describe_paths(
    paths: Iterable[str], *, sample: int = SAMPLE, check: bool = False
) -> Iterator[tuple[list[str], list[str]]]:
    """Describe all files of the paths, block by block.

    Args:
        sample: see `describe`.
        check: see `describe`.

    Yields:
        The lines of one group of files, or of the overview of a folder with many stages; and
        messages about files that are damaged or not of this workflow.
    """
    for path in paths:
        try:
            groups = expand(path)
        except InputError as error:
            yield [], [str(error)]
            continue
        if len(groups) > 2 and len({group[0].parent for group in groups}) > 1:
            lines, faults = overview(groups)
            yield [*lines, "", "  Give one of these paths to see what it contains."], faults
            continue
        for group in groups:
            try:
                yield describe(group, sample=sample, check=check), []
            except InputError as error:
                yield [], [str(error)]


def overview(paths: Iterable[Sequence[Path]]) -> tuple[list[str], list[str]]:
    """One line for every group of files of a folder.

    Returns:
        The table's lines, and messages about files that are damaged or not of this workflow.
    """
    rows, faults = [], []
    for group in paths:
        alone = len(group) == 1 and group[0].name != FOLDER_MARK
        where = group[0] if alone else group[0].parent
        count = None
        try:
            if group[0].suffix == ".parquet":
                title, count = parquet_files.title_of(group)
            else:
                # A few label maps are enough for an overview.
                title = describe(group, sample=1)[1].strip()
        except InputError as error:
            faults.append(str(error))
            continue
        files = [path for path in group if path.name != FOLDER_MARK]
        bytes_ = sum(path.stat().st_size for path in files)
        rows.append([str(where), title, len(files), count, terminal.size(bytes_)])
    # Paths are not truncated, so that they can be copied.
    width = max([60, *(len(row[0]) for row in rows)])
    header = ["path", "what it is", "files", "rows", "size"]
    return terminal.table(header, rows, width=width), faults
