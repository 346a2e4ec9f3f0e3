"""Atomic writes: an output file or folder appears complete or not at all."""

import contextlib
import errno
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError

# File in each folder that `atomic_folder` writes. It is hidden, as is Snakemake's own file there.
FOLDER_MARK = ".maskdistill"
_FOLDER_NOTE = "MaskDistill wrote this folder, and replaces it as a whole when it writes it again."


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path; its file replaces `path` when the block ends without an error.

    Until then, and when the block fails, the old file, if any, is left as it is. Temporary files
    of earlier attempts that were killed are removed first.

    Raises:
        InputError: the disk is full, or a quota or file size limit is reached.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file has another suffix, because DuckDB's *.parquet also matches hidden files.
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.tmp*"):
        left_over.unlink(missing_ok=True)
    try:
        with report_full_disk(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def report_full_disk(path: str | os.PathLike) -> Iterator[None]:
    """Turn the system's error about a full disk, quota or file size into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"{path}: no space left on the disk; the old file, if any, is untouched. "
                "Free some space and run again."
            ) from error
        raise


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, record: Mapping | None = None) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` when the block ends without an error.

    The old folder is replaced as a whole: no file of an earlier run remains. It must be empty, or
    contain the hidden file `.maskdistill`, which shows that this function wrote it.

    Args:
        record: how the folder was made (see `provenance`), stored in the file `.maskdistill`.

    Raises:
        InputError: `path` is a file, or a folder with files of others, or the disk is full.
    """
    path = Path(path).resolve()  # the target of a link is replaced, not the link
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    replaced = path.with_name(f".{path.name}.replaced")
    if replaced.exists() and not path.exists():  # killed between the two renames below
        replaced.rename(path)
    _refuse_to_replace(path)
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.tmp*"):
        shutil.rmtree(left_over, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with report_full_disk(path):
            yield temporary
            mark = json.dumps({"note": _FOLDER_NOTE, "provenance": record}, indent=1)
            (temporary / FOLDER_MARK).write_text(mark + "\n")
            if path.exists():
                path.rename(replaced)
            try:
                temporary.rename(path)
            except OSError:
                if replaced.exists():
                    replaced.rename(path)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_record(path: Path) -> dict | None:
    """The provenance record of a folder written by `atomic_folder`; None for other folders."""
    try:
        return json.loads((path / FOLDER_MARK).read_text(encoding="utf-8"))["provenance"]
    except (FileNotFoundError, ValueError):
        return None


def _refuse_to_replace(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: is a file, not a folder; choose another path")
    if any(path.iterdir()) and not (path / FOLDER_MARK).exists():
        raise InputError(
            f"{path}: not replaced, because it holds files that this program did not write; "
            "choose another folder, or remove this one"
        )


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
