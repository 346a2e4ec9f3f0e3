"""Provenance records of outputs: settings, code, input files, weights and versions.

The record is a JSON object. Parquet files store it in their metadata, JSON files under
`provenance` (COCO's under `info`), HTML pages in a data block, models under `provenance`, and
folders in their hidden file `.maskdistill`. Other formats, such as CSV, have it in a file
NAME.provenance.json next to them. Pseudo-labels have such a file, too, so that their own file
stays the same if the labels do.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import ijson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import folder_record, write_text

METADATA_KEY = b"maskdistill"  # key of the record (JSON) in the metadata of a Parquet schema
CONTENT_KEY = b"maskdistill_content"  # key of the digest of the rows in a Parquet file's metadata
ENDING = ".provenance.json"  # of record files, for outputs whose format cannot hold a record
_DIGITS = 16
_HTML = re.compile(r'<script type="application/json" id="provenance">(.*?)</script>', re.DOTALL)


def record(
    stage: str,
    settings: Mapping,
    *,
    program: str | None = None,
    code: str | None = None,
    inputs: Iterable[str | os.PathLike] = (),
    **extra: object,
) -> dict:
    """The record of an output.

    Args:
        stage: what kind of output it is.
        settings: the part of the config that the program was given.
        program: the module of `workflow_scripts` that made it.
        code: digest of the program's logic, see `code_digest`.
        inputs: files that it was made from; their content digests are recorded.
        extra: further entries, for instance the seed.

    Raises:
        InputError: an input file is missing.
    """
    made_by = {"program": program, "code": code} if program else {}
    return {
        "stage": stage,
        "settings": json.loads(json.dumps(settings)),  # a deep copy
        **made_by,
        "inputs": {os.fspath(path): content_digest(path) for path in inputs},
        "versions": versions(),
        **extra,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the main libraries."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("torch", "numpy", "pyarrow")
    }


def content_digest(path: str | os.PathLike) -> str:
    """16 hexadecimal digits that identify the content of a file.

    For a Parquet file of MaskDistill this is the digest of its rows, read from its footer; it does
    not depend on the provenance record. For other files it is the beginning of the SHA-256.

    Raises:
        InputError: there is no such file.
    """
    if Path(path).suffix == ".parquet":
        try:
            found = (pq.read_metadata(path).metadata or {}).get(CONTENT_KEY)
        except (pa.ArrowInvalid, OSError):
            found = None
        if found is not None:
            return found.decode()
    return file_digest(path)[:_DIGITS]


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        InputError: there is no such file.
    """
    try:
        with open(Path(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; check the path, or run the stage that writes it"
        ) from None


class RowsDigest:
    """The digest of a Parquet file's rows, for `CONTENT_KEY`; row groups are added one by one."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the rows of one row group."""
        for column in batch.columns:
            self._add(column)

    def _add(self, values: pa.Array) -> None:
        # Null values are dropped, because Arrow's buffers may hold anything in their place.
        self._digest.update(values.is_valid().to_numpy(zero_copy_only=False).tobytes())
        values, kind = values.drop_null(), values.type
        if pa.types.is_struct(kind):
            for field in kind:
                self._add(pc.struct_field(values, field.name))
        elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            self._add(pc.list_value_length(values))
            self._add(values.flatten())
        elif pa.types.is_binary(kind) or pa.types.is_string(kind):
            self._add(pc.binary_length(values))
            self._digest.update(b"".join(values.cast(pa.binary()).to_pylist()))
        else:
            self._digest.update(values.to_numpy(zero_copy_only=False).tobytes())

    def metadata(self) -> dict[bytes, bytes]:
        """The entry with the digest, to be added to the file's metadata."""
        return {CONTENT_KEY: self._digest.hexdigest()[:_DIGITS].encode()}


def embed_in_html(page: str, content: Mapping) -> str:
    """The HTML page with the record in a script element at its end; "<" is escaped in it."""
    text = json.dumps(content).replace("<", "\\u003c")
    head, end, tail = page.rpartition("</body>")
    return f'{head}<script type="application/json" id="provenance">{text}</script>\n{end}{tail}'


def write_record(path: str | os.PathLike, content: Mapping) -> None:
    """Write the record of a file whose format cannot hold it."""
    write_text(record_path(path), json.dumps(content, indent=1) + "\n")


def record_path(path: str | os.PathLike) -> Path:
    """The file next to `path` with its record, for formats that cannot hold one."""
    return Path(path).with_name(Path(path).name + ENDING)


def read(path: str | os.PathLike) -> dict | None:
    """The record of a file or folder; None if it has none.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(path)
    try:
        if record_path(path).is_file():
            return json.loads(record_path(path).read_text(encoding="utf-8"))
        if path.is_dir():
            return folder_record(path)
        return _READERS.get(path.suffix, lambda _: None)(path)
    except (OSError, ValueError, pa.ArrowException, ijson.JSONError) as error:
        raise InputError(
            f"{path}: damaged or missing ({' '.join(str(error).split())}); remove it and run its "
            "stage again"
        ) from error


def _of_parquet(path: Path) -> dict | None:
    text = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    return None if text is None else json.loads(text)


def _of_json(path: Path) -> dict | None:
    with open(path, "rb") as file:
        # COCO files are large, and have the record at their beginning.
        prefix = "info.provenance" if file.read(7) == b'{"info"' else "provenance"
        file.seek(0)
        return next(ijson.items(file, prefix, use_float=True), None)


def _of_html(path: Path) -> dict | None:
    found = _HTML.search(path.read_text(encoding="utf-8"))
    return json.loads(found[1]) if found else None


def _of_model(path: Path) -> dict | None:
    from workflow_scripts.maskdistill.files.checkpoints import read_checkpoint

    content = read_checkpoint(path, remedy="remove it and run its training again")
    return content.get("provenance") if isinstance(content, Mapping) else None


_READERS = {
    ".parquet": _of_parquet,
    ".json": _of_json,
    ".html": _of_html,
    ".pt": _of_model,
}
