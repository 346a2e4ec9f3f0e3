"""Unpacking of tar and zip archives; archives with files outside of the target are refused."""

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.progress import progress


def unpack(
    archive: str | os.PathLike,
    target: str | os.PathLike,
    *,
    strip: str = "",
    keep: Iterable[str] = (),
) -> int:
    """Unpack an archive, or a part of it, into a folder.

    Hard links become copies of their targets; symbolic links are left out.

    Args:
        archive: tar (also compressed) or zip.
        target: folder to unpack into; made if missing.
        strip: POSIX path of the folder in the archive to unpack; "" for the whole archive.
        keep: files and folders directly below `strip` to unpack; empty for all.

    Returns:
        The number of files written.

    Raises:
        InputError: damaged, not an archive, nothing to unpack, a member that would lie outside of
            the folder, or a hard link to a file that is not unpacked; names the archive.
    """
    archive, target = Path(archive), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    keep = frozenset(keep)
    try:
        if zipfile.is_zipfile(archive):
            count = _unpack_zip(archive, target, strip, keep)
        else:
            count = _unpack_tar(archive, target, strip, keep)
    except tarfile.FilterError as error:
        raise InputError(f"{archive}: unsafe archive, not unpacked: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{archive}: damaged, or not an archive ({error}); remove it and run again"
        ) from error
    if not count:
        raise InputError(
            f"{archive}: no files to unpack below {strip or '.'}; check whether this is the right "
            "archive"
        )
    return count


def _unpack_tar(archive: Path, target: Path, strip: str, keep: frozenset[str]) -> int:
    written: set[str] = set()
    with tarfile.open(archive) as tar:
        for member in progress(tar, description=archive.name, unit="file"):
            relative = _selected(_inside(member.name, archive), strip, keep)
            # Only plain files are written: a link could place a later member outside of the target.
            if relative and member.isfile():
                tar.extract(member.replace(name=relative, deep=False), target, filter="data")
                written.add(relative)
            elif relative and member.islnk():
                source = _selected(_inside(member.linkname, archive), strip, keep)
                if source not in written:
                    raise InputError(
                        f"{archive}: {member.name!r} is a hard link to {member.linkname!r}, which "
                        "is not among the files unpacked before it; make the archive anew with "
                        "`tar --hard-dereference`"
                    )
                if relative != source:
                    (target / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(target / source, target / relative)
                    written.add(relative)
    return len(written)


def _unpack_zip(archive: Path, target: Path, strip: str, keep: frozenset[str]) -> int:
    count = 0
    with zipfile.ZipFile(archive) as zipped:
        for member in progress(zipped.infolist(), description=archive.name, unit="file"):
            name = _inside(member.filename, archive)
            if not member.is_dir() and (relative := _selected(name, strip, keep)):
                path = target / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as source, open(path, "wb") as file:
                    shutil.copyfileobj(source, file)
                count += 1
    return count


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{archive}: unsafe archive, not unpacked: {name!r} would be outside of the folder"
        )
    return path


def _selected(name: PurePosixPath, strip: str, keep: frozenset[str]) -> str | None:
    """The path of a member in the target folder; None if it is left out."""
    if strip and not name.is_relative_to(strip):
        return None
    relative = name.relative_to(strip) if strip else name
    if not relative.parts or (keep and relative.parts[0] not in keep):
        return None
    return relative.as_posix()
