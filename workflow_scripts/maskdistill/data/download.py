"""Downloads that resume, are verified, and appear only when complete.

Received bytes are kept in a hidden file next to the target, together with the version of the
remote file; the next attempt or the next run continues from there.
"""

import errno
import fcntl
import hashlib
import http.client
import json
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import filelock

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.progress import progress_bar

TIMEOUT = 60  # seconds without a received byte after which a connection is given up
REACHABLE_SECONDS = 5.0  # within which a server must answer to count as reachable
_CHUNK = 1 << 20  # bytes
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


def download(
    source: Mapping, target: str | os.PathLike, *, attempts: int = 6, pause: float = 2.0
) -> str:
    """Download one file to `target` and verify its content.

    Args:
        source: `url`, and if known `bytes`, `sha256` and `md5`; digests in hexadecimal, complete
            or their first digits.
        attempts: failed attempts in a row before giving up; received bytes reset the count.
        pause: seconds before the second attempt, doubled for each further one.

    Returns:
        The whole SHA-256 of the file, in hexadecimal.

    Raises:
        InputError: no connection, no such remote file, unexpected content, another process that
            downloads it, or a full disk. `target` is then not written; received bytes are kept
            for the next run, unless their content is wrong.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        with open(partial, "a+b") as file:
            _lock(file, target)
            resumed = file.tell() > 0
            _receive(source, file, target, attempts, pause)
            problem = _difference(source, file)
            if problem and resumed:  # the first part may be of an older version: start again
                _truncate(file, partial)
                _receive(source, file, target, attempts, pause)
                problem = _difference(source, file)
            if problem:
                _discard(partial)
                raise InputError(
                    f"{source['url']}: {problem}; the download was discarded. Run again, or "
                    "correct the expected size and checksum if the file has a new version"
                )
            os.fsync(file.fileno())
            digest = _digest(file, "sha256")
            os.replace(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{target}: no space left on the disk; free some space and run again; the download "
                "continues where it stopped"
            ) from error
        raise
    _version_note(partial).unlink(missing_ok=True)
    return digest


def reachable(url: str, *, seconds: float = REACHABLE_SECONDS) -> bool:
    """Whether a server answers within `seconds`, even if it answers with an error."""

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "maskdistill"})
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, http.client.HTTPException):
            answers.put(False)
            return
        answers.put(True)

    # In a thread, because Python has no timeout for resolving the name of a host.
    answers: queue.Queue[bool] = queue.Queue()
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


def verify(source: Mapping, path: str | os.PathLike) -> str:
    """Check an existing file against the expected size and digests.

    Returns:
        Its whole SHA-256.

    Raises:
        InputError: the size or a digest differs.
    """
    with open(path, "rb") as file:
        if problem := _difference(source, file):
            raise InputError(f"{path}: {problem}; remove it, and it is downloaded again")
        return _digest(file, "sha256")


def pinned(source: Mapping, lock_file: str | os.PathLike) -> dict:
    """`source` with its SHA-256 and size, if an earlier download of its URL recorded them.

    Raises:
        InputError: the lock file is damaged.
    """
    recorded = _read_pins(Path(lock_file)).get(source["url"], {})
    return {**source, **recorded}


def pin(
    source: Mapping, sha256: str, path: str | os.PathLike, lock_file: str | os.PathLike
) -> None:
    """Record the SHA-256 and size of the first download of a URL, to check later ones.

    Raises:
        InputError: the lock file is damaged, or cannot be written.
    """
    lock_file = Path(lock_file)
    try:
        # Locked, because several downloads may end at the same time.
        with filelock.FileLock(lock_file.with_name(f".{lock_file.name}.lock")):
            pins = _read_pins(lock_file)
            pins[source["url"]] = {"bytes": os.path.getsize(path), "sha256": sha256}
            write_text(lock_file, json.dumps(pins, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise InputError(
            f"{lock_file}: cannot record the checksum {sha256} there ({error.strerror})"
        ) from error


def _read_pins(path: Path) -> dict:
    return read_json(path, remedy="restore it from git") if path.exists() else {}


def _receive(source: Mapping, file: BinaryIO, target: Path, attempts: int, pause: float) -> None:
    """Append to `file` until it is complete."""
    url = source["url"]
    failures, most = 0, 0
    with progress_bar(total=source.get("bytes"), description=target.name, unit="B") as bar:
        while True:
            before = file.seek(0, os.SEEK_END)
            try:
                if _continue(url, file, Path(file.name), bar):
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                if error.code not in _TRANSIENT:
                    if before == 0:
                        _discard(Path(file.name))
                    raise InputError(
                        f"{url}: the server answers {reason}; check the address in "
                        "resources/downloads.yaml, or fetch the file by other means and put it "
                        f"at {target}"
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                cause = getattr(error, "reason", error)
                reason = " ".join(str(cause).split()) or type(error).__name__
            have = file.seek(0, os.SEEK_END)
            failures = 1 if have > max(before, most) else failures + 1
            most = max(have, most)
            if failures >= attempts:
                raise InputError(
                    f"{url}: {reason}, {attempts} times; what has arrived is kept, run again to "
                    f"continue. Without a network, put the file at {target}"
                )
            time.sleep(pause * 2 ** (failures - 1))


def _continue(url: str, file: BinaryIO, partial: Path, bar) -> bool:
    """Request the missing bytes once; returns whether the file is complete afterwards."""
    have = file.seek(0, os.SEEK_END)
    note = _version_note(partial)
    version = note.read_text() if note.is_file() else ""
    if have and not version:  # it is unknown whether the rest would belong to the same version
        have = _truncate(file, partial)
    request = urllib.request.Request(url, headers={"User-Agent": "maskdistill"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            if _total(error.headers.get("Content-Range")) == have:
                return True
            _truncate(file, partial)
            return False
        raise
    with response:
        if have and not (
            response.status == 206
            and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        ):
            have = _truncate(file, partial)  # the server sends the whole file
        # The value for If-Range must identify one version of the file: an ETag that is not weak, or
        # the time of the last change.
        tag = response.headers.get("ETag") or ""
        note.write_text(
            tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""
        )
        length = response.headers.get("Content-Length")
        expected = None if length is None else have + int(length)
        if expected is not None:
            bar.total = expected
        bar.n = have
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
    return expected is None or file.seek(0, os.SEEK_END) >= expected


def _total(content_range: str | None) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", content_range or "")
    return int(match[1]) if match else None


def _difference(source: Mapping, file: BinaryIO) -> str | None:
    """How the file differs from the expected size and digests; None if it does not."""
    size = file.seek(0, os.SEEK_END)
    if source.get("bytes") not in (None, size):
        return f"{size} bytes instead of {source['bytes']}"
    for kind, name in (("sha256", "SHA-256"), ("md5", "MD5")):
        promised = source.get(kind)
        if promised and not (found := _digest(file, kind)).startswith(promised):
            return f"wrong checksum: {name} {found} instead of {promised}"
    return None


def _digest(file: BinaryIO, kind: str) -> str:
    file.seek(0)
    return hashlib.file_digest(file, kind).hexdigest()


def _lock(file: BinaryIO, target: Path) -> None:
    # The file itself is locked, so that no lock file is left next to the data. The package filelock
    # is not used, because some of its versions empty the file that they lock.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{target}: another process is downloading it; wait until it has ended"
        ) from None
    # Another process may have finished between opening and locking; this file is then its result.
    partial = Path(file.name)
    if not (partial.exists() and os.path.samestat(partial.stat(), os.fstat(file.fileno()))):
        raise InputError(f"{target}: another process has just downloaded it; run again")


def _truncate(file: BinaryIO, partial: Path) -> int:
    file.truncate(0)
    _version_note(partial).unlink(missing_ok=True)
    return 0


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _version_note(partial).unlink(missing_ok=True)


def _version_note(partial: Path) -> Path:
    return partial.with_suffix(".version")
