"""Parquet shards: atomic writing and streaming reads."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import atomic_path
from workflow_scripts.maskdistill.files.provenance import METADATA_KEY, RowsDigest
from workflow_scripts.maskdistill.files.schemas import schema

OK = "ok"
# Largest size of a row group in memory, in bytes; a single larger row has a group of its own. An
# array of bytes in Arrow holds at most 2 GiB.
BYTES_PER_GROUP = 2**26


class ShardWriter:
    """Collects rows and writes them row group by row group; made by `shard_writer`."""

    def __init__(self, parquet: pq.ParquetWriter, columns: pa.Schema, rows_per_group: int) -> None:
        self._parquet = parquet
        self._schema = columns
        self._rows_per_group = rows_per_group
        self._rows: list[Mapping] = []
        self._bytes = 0
        self._digest = RowsDigest()

    def write(self, row: Mapping) -> None:
        """Add one row; columns that it lacks are null.

        Raises:
            KeyError: the row has a column that the schema lacks.
        """
        if unknown := row.keys() - set(self._schema.names):
            raise KeyError(f"not in the schema: {sorted(unknown)}")
        size = _bytes(row)
        if self._bytes + size > BYTES_PER_GROUP:
            self.flush()
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= self._rows_per_group:
            self.flush()

    def flush(self) -> None:
        """End the current row group."""
        if self._rows:
            columns = [
                pa.array([row.get(field.name) for row in self._rows], field.type)
                for field in self._schema
            ]
            batch = pa.record_batch(columns, schema=self._schema)
            self._parquet.write_batch(batch)
            self._digest.add(batch)
            self._rows.clear()
            self._bytes = 0

    def close(self) -> None:
        """Write the remaining rows, and the digest of all rows into the footer."""
        self.flush()
        self._parquet.add_key_value_metadata(self._digest.metadata())


def _bytes(value: object) -> int:
    """Bytes of the arrays and byte strings in a row."""
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return len(value) if isinstance(value, bytes) else getattr(value, "nbytes", 0)


@contextlib.contextmanager
def shard_writer(
    path: str | os.PathLike,
    stage: str,
    metadata: Mapping,
    *,
    embedding_size: int | None = None,
    rows_per_group: int = 256,
) -> Iterator[ShardWriter]:
    """Write one shard of `stage`; the file appears when the `with` block ends without an error.

    Args:
        metadata: see `provenance.record`; stored in the file's own metadata as JSON.
        rows_per_group: largest number of rows in a row group, and so in memory, here and in
            readers of the file; groups of more than `BYTES_PER_GROUP` have fewer rows.
    """
    text = json.dumps(metadata, sort_keys=True)
    columns = schema(stage, embedding_size).with_metadata({METADATA_KEY: text})
    # Dictionaries and statistics of vectors and PNGs are useless and would take three quarters of
    # the writing time.
    flat = [field.name for field in columns if not pa.types.is_nested(field.type)]
    options = {
        "compression": "zstd",
        "write_page_checksum": True,
        "use_dictionary": flat,
        "write_statistics": flat,
    }
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, columns, **options) as parquet,
    ):
        writer = ShardWriter(parquet, columns, rows_per_group)
        yield writer
        writer.close()


def write_table(
    path: str | os.PathLike,
    stage: str,
    rows: Iterable[Mapping],
    metadata: Mapping,
    *,
    embedding_size: int | None = None,
) -> None:
    """Write all `rows` as one shard of `stage`."""
    with shard_writer(path, stage, metadata, embedding_size=embedding_size) as writer:
        for row in rows:
            writer.write(row)


def read_metadata(path: str | os.PathLike) -> dict:
    """The provenance of a shard.

    Raises:
        InputError: the file is damaged, or was not written by MaskDistill.
    """
    with _report_damage(path):
        metadata = pq.read_schema(path).metadata or {}
        if METADATA_KEY not in metadata:
            raise InputError(
                f"{path}: this Parquet file was not written by MaskDistill; check the path"
            )
        return json.loads(metadata[METADATA_KEY])


def read_schema(path: str | os.PathLike) -> pa.Schema:
    """The columns of one shard.

    Raises:
        InputError: the file is damaged.
    """
    with _report_damage(path):
        return pq.read_schema(path)


def _open(path: str | os.PathLike) -> pq.ParquetFile:
    # Checksums detect damage within an uncompressed page. `pre_buffer` would read the whole shard
    # into memory.
    return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)


def read_table(paths: Iterable[str | os.PathLike], columns: list[str] | None = None) -> pa.Table:
    """All rows of one or several shards of a stage, in the order of `paths`.

    A column has one chunk for each row group, because an array of bytes holds at most 2 GiB.
    """
    tables = []
    for path in paths:
        with _report_damage(path):
            file = _open(path)
            groups = range(file.num_row_groups)
            tables += [file.read_row_group(group, columns) for group in groups]
            if not groups:
                tables.append(file.read(columns))
    return pa.concat_tables(tables)


def rows_in_order(
    table: pa.Table, order: Sequence[int], *, batch_size: int = 1024
) -> Iterator[dict]:
    """Rows of a table with these numbers, as dictionaries, converted a few at a time."""
    # Rows are taken from a single array, and an array of type `binary` holds at most 2 GiB.
    large = [
        field.with_type(pa.large_binary()) if pa.types.is_binary(field.type) else field
        for field in table.schema
    ]
    table = table.cast(pa.schema(large)).combine_chunks()
    for first in range(0, len(order), batch_size):
        yield from table.take(order[first : first + batch_size]).to_pylist()


def count_rows(path: str | os.PathLike) -> int:
    """The number of rows of one shard."""
    with _report_damage(path):
        return pq.read_metadata(path).num_rows


def read_batches(
    path: str | os.PathLike, columns: list[str] | None = None, *, batch_size: int = 65536
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of one shard, `batch_size` at a time."""
    with _report_damage(path):
        yield from _open(path).iter_batches(
            batch_size=batch_size, columns=columns, use_threads=False
        )


def read_rows(
    path: str | os.PathLike, columns: list[str] | None = None, *, batch_size: int = 64
) -> Iterator[dict]:
    """Stream the rows of one shard as dictionaries, a few at a time.

    Vectors (keys, embeddings, …) are NumPy arrays.
    """
    for batch in read_batches(path, columns, batch_size=batch_size):
        yield from _rows(batch)


def _rows(batch: pa.RecordBatch) -> Iterator[dict]:
    values = [_values(column) for column in batch.columns]
    for row in zip(*values, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def read_usable(manifest: str | os.PathLike) -> list[dict]:
    """The rows of a manifest shard whose images are usable (status ok)."""
    return [row for row in read_rows(manifest) if row["status"] == OK]


def _values(column: pa.Array) -> list:
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return [
            item.values.to_numpy(zero_copy_only=False) if item.is_valid else None for item in column
        ]
    return column.to_pylist()


def rows_of_image(path: str | os.PathLike, image_id: int) -> list[dict]:
    """The rows of one image of a shard; vectors are NumPy arrays.

    Only the rows of this image are decoded.
    """
    with _report_damage(path):
        table = pq.read_table(
            path, filters=[("image_id", "=", image_id)], page_checksum_verification=True
        )
    return [row for batch in table.to_batches() for row in _rows(batch)]


def group_by_image(path: str | os.PathLike, columns: list[str] | None = None) -> dict[int, list]:
    """image_id → its rows in one shard, in the order of the file."""
    groups: dict[int, list] = {}
    for row in read_rows(path, columns):
        groups.setdefault(row["image_id"], []).append(row)
    return groups


def assert_same_images(expected: Iterable[int], found: Iterable[int], what: str) -> None:
    """Check that two files hold the same image ids, so that no image is lost.

    Raises:
        InputError: they differ; the message names a few ids.
    """
    expected, found = set(expected), set(found)
    if expected != found:
        missing, extra = sorted(expected - found)[:5], sorted(found - expected)[:5]
        raise InputError(
            f"{what}: images differ from the manifest's (missing ids: {missing}, unexpected ids: "
            f"{extra}); remove the file and run again"
        )


# Which error a damaged file raises depends on where the damage is.
_DAMAGE = (
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    pa.ArrowCapacityError,
    UnicodeDecodeError,
    json.JSONDecodeError,
)
# Words in Arrow's errors about undamaged files whose arrays would have more than 2 GiB.
_TOO_LARGE = re.compile("chunked array|offset overflow|capacity|cannot contain more than", re.I)


@contextlib.contextmanager
def _report_damage(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; check the path, or run the stage that writes it"
        ) from None
    except (*_DAMAGE, OSError) as error:
        reason = " ".join(str(error).split())
        if _TOO_LARGE.search(reason):
            raise InputError(
                f"{path}: a column of this file exceeds Arrow's limit of 2 GiB ({reason}); set "
                "more shards in the dataset's config"
            ) from error
        raise InputError(
            f"{path}: damaged, or not a Parquet file ({reason}); remove it and run its stage again"
        ) from error
