"""Parquet shards: the schema of every stage, atomic writing, streaming reads."""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import atomic_path
from workflow_scripts.maskdistill.files.provenance import METADATA_KEY, RowsDigest

OK = "ok"

_BOX = [(name, pa.float32()) for name in ("x", "y", "box_width", "box_height", "area")]
_CANDIDATES = [
    ("image_id", pa.int64()),
    ("candidate_id", pa.int64()),
    ("cluster", pa.int32()),
    ("score", pa.float32()),
    *_BOX,
    ("rle_counts", pa.binary()),
    ("height", pa.int32()),
    ("width", pa.int32()),
]
_LABEL_MAPS = [
    ("image_id", pa.int64()),
    ("file_name", pa.string()),
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
]


@functools.cache
def schema(stage: str, embedding_size: int | None = None) -> pa.Schema:
    """The columns of one stage's shards.

    Args:
        stage: images, features, masks, mask_embeddings, assignments, centroids, candidates,
            confident, label_maps or predictions.
        embedding_size: length of the vectors of mask_embeddings and centroids.
    """
    columns = {
        "images": [
            ("image_id", pa.int64()),
            ("file_name", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("shard", pa.int32()),
            ("status", pa.string()),
        ],
        "features": [
            ("image_id", pa.int64()),
            ("grid_height", pa.int32()),
            ("grid_width", pa.int32()),
            ("resized_height", pa.int32()),
            ("resized_width", pa.int32()),
            # heads x N. In float16 two nearly equal patches could swap as the source.
            ("cls_affinity", pa.list_(pa.float32())),
            ("keys", pa.list_(pa.float16())),  # N x (heads x head size)
            ("status", pa.string()),
        ],
        "masks": [
            ("image_id", pa.int64()),
            ("mask_id", pa.int64()),  # 0, 1, … within the image
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("rle_counts", pa.binary()),
            *_BOX,
            ("source_row", pa.int32()),
            ("source_col", pa.int32()),
            ("proposals", pa.int32()),
            ("status", pa.string()),
        ],
        "mask_embeddings": [
            ("image_id", pa.int64()),
            ("mask_id", pa.int64()),
            ("embedding", pa.list_(pa.float32(), embedding_size or 1)),
        ],
        "assignments": [
            ("image_id", pa.int64()),
            ("mask_id", pa.int64()),
            ("cluster", pa.int32()),
            ("distance", pa.float32()),
        ],
        "centroids": [
            ("cluster", pa.int32()),
            ("size", pa.int64()),
            ("centroid", pa.list_(pa.float32(), embedding_size or 1)),
        ],
        "per_class": [
            ("step", pa.string()),
            ("matching", pa.string()),  # hungarian, majority (overclustering), or supervised
            ("class", pa.string()),
            ("iou", pa.float64()),  # 0..1; null where the class is nowhere
            ("clusters", pa.string()),  # separated by spaces
        ],
        "candidates": _CANDIDATES,
        "confident": _CANDIDATES,
        "label_maps": _LABEL_MAPS,
        "predictions": _LABEL_MAPS,
    }
    return pa.schema(columns[stage])


class ShardWriter:
    """Collects rows and writes them row group by row group; made by `shard_writer`."""

    def __init__(self, parquet: pq.ParquetWriter, columns: pa.Schema, rows_per_group: int) -> None:
        self._parquet = parquet
        self._schema = columns
        self._rows_per_group = rows_per_group
        self._rows: list[Mapping] = []
        self._digest = RowsDigest()

    def write(self, row: Mapping) -> None:
        """Add one row; columns that it lacks are null.

        Raises:
            KeyError: the row has a column that the schema lacks.
        """
        if unknown := row.keys() - set(self._schema.names):
            raise KeyError(f"not in the schema: {sorted(unknown)}")
        self._rows.append(row)
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

    def close(self) -> None:
        """Write what is left, and name the digest of all rows in the footer."""
        self.flush()
        self._parquet.add_key_value_metadata(self._digest.metadata())


@contextlib.contextmanager
def shard_writer(
    path: str | os.PathLike,
    stage: str,
    metadata: Mapping,
    *,
    embedding_size: int | None = None,
    rows_per_group: int = 256,
) -> Iterator[ShardWriter]:
    """Write one shard of `stage`; it appears under its name when the block ends without an error.

    Args:
        metadata: see `provenance.record`; stored in the file's own metadata as JSON.
        rows_per_group: rows that are held in memory, here and by whoever reads the file.
    """
    text = json.dumps(metadata, sort_keys=True)
    columns = schema(stage, embedding_size).with_metadata({METADATA_KEY: text})
    # Of vectors and PNGs, dictionaries and extremes cost three quarters of the time for nothing.
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
    with _damage_named(path):
        metadata = pq.read_schema(path).metadata or {}
        if METADATA_KEY not in metadata:
            raise InputError(f"{path}: a foreign file: Parquet, but not one of MaskDistill's")
        return json.loads(metadata[METADATA_KEY])


def column_names(path: str | os.PathLike) -> list[str]:
    """The columns of one shard.

    Raises:
        InputError: the file is damaged.
    """
    with _damage_named(path):
        return pq.read_schema(path).names


def _open(path: str | os.PathLike) -> pq.ParquetFile:
    # Without checksums, what was changed within an uncompressed page would be read as it is.
    # Buffered beforehand, the whole shard would be in memory.
    return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)


def read_table(paths: Iterable[str | os.PathLike], columns: list[str] | None = None) -> pa.Table:
    """All rows of one or several shards of a stage, in the order of `paths`."""
    tables = []
    for path in paths:
        with _damage_named(path):
            tables.append(_open(path).read(columns=columns))
    return pa.concat_tables(tables)


def rows_in_order(
    table: pa.Table, order: Sequence[int], *, batch_size: int = 1024
) -> Iterator[dict]:
    """Rows of a table of `read_table` as dictionaries, a few at a time, by their numbers."""
    for first in range(0, len(order), batch_size):
        yield from table.take(order[first : first + batch_size]).to_pylist()


def count_rows(path: str | os.PathLike) -> int:
    """The number of rows of one shard."""
    with _damage_named(path):
        return pq.read_metadata(path).num_rows


def read_rows(
    path: str | os.PathLike, columns: list[str] | None = None, *, batch_size: int = 64
) -> Iterator[dict]:
    """Stream the rows of one shard as dictionaries, a few at a time.

    Vectors (keys, embeddings, …) come as NumPy arrays.
    """
    with _damage_named(path):
        batches = _open(path).iter_batches(
            batch_size=batch_size, columns=columns, use_threads=False
        )
        for batch in batches:
            values = [_values(column) for column in batch.columns]
            for row in zip(*values, strict=True):
                yield dict(zip(batch.schema.names, row, strict=True))


def read_usable(manifest: str | os.PathLike) -> list[dict]:
    """The rows of a manifest shard whose images go through the later stages."""
    return [row for row in read_rows(manifest) if row["status"] == OK]


def _values(column: pa.Array) -> list:
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return [
            item.values.to_numpy(zero_copy_only=False) if item.is_valid else None for item in column
        ]
    return column.to_pylist()


def rows_of_image(path: str | os.PathLike, image_id: int) -> list[dict]:
    """The rows of one image of a shard; vectors come as NumPy arrays.

    Only what belongs to the image is decoded, however large the shard is.
    """
    with _damage_named(path):
        table = pq.read_table(
            path, filters=[("image_id", "=", image_id)], page_checksum_verification=True
        )
    rows = []
    for batch in table.to_batches():
        values = [_values(column) for column in batch.columns]
        for row in zip(*values, strict=True):
            rows.append(dict(zip(batch.schema.names, row, strict=True)))
    return rows


def group_by_image(path: str | os.PathLike, columns: list[str] | None = None) -> dict[int, list]:
    """The rows of one shard by image: image_id → rows, in the order of the file."""
    groups: dict[int, list] = {}
    for row in read_rows(path, columns):
        groups.setdefault(row["image_id"], []).append(row)
    return groups


def read_embeddings(
    paths: Iterable[str | os.PathLike],
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Mask embeddings of one or several shards.

    Returns:
        (image_id, mask_id) of each, and the vectors as n x d float32.
    """
    table = read_table(paths)
    keys = list(zip(table["image_id"].to_pylist(), table["mask_id"].to_pylist(), strict=True))
    column = table["embedding"].combine_chunks()
    return keys, column.flatten().to_numpy().reshape(len(keys), column.type.list_size)


def read_vectors(
    paths: Sequence[str | os.PathLike], chosen: np.ndarray | None = None
) -> np.ndarray:
    """Vectors of mask embeddings; beside them no more than one shard is held in memory.

    Args:
        paths: shards, as if one stood below the other.
        chosen: rows of them, rising; None for all.

    Returns:
        n x d float32.
    """
    counts = [count_rows(path) for path in paths]
    if chosen is None:
        chosen = np.arange(sum(counts))
    with _damage_named(paths[0]):
        width = pq.read_schema(paths[0]).field("embedding").type.list_size
    vectors = np.empty((len(chosen), width), np.float32)
    first = 0
    for path, count in zip(paths, counts, strict=True):
        begin, end = np.searchsorted(chosen, [first, first + count])
        if begin < end:
            vectors[begin:end] = read_embeddings([path])[1][chosen[begin:end] - first]
        first += count
    return vectors


def write_assignments(
    path: str | os.PathLike,
    keys: Iterable[tuple[int, int]],
    clusters: np.ndarray,
    distances: np.ndarray,
    metadata: Mapping,
) -> None:
    """Write the clusters (1..C) and distances of the masks with these (image_id, mask_id)."""
    write_table(path, "assignments", assignment_rows(keys, clusters, distances), metadata)


def assignment_rows(
    keys: Iterable[tuple[int, int]], clusters: np.ndarray, distances: np.ndarray
) -> Iterator[dict]:
    """Rows of `assignments` of the masks with these (image_id, mask_id)."""
    for (image_id, mask_id), cluster, distance in zip(keys, clusters, distances, strict=True):
        yield {"image_id": image_id, "mask_id": mask_id, "cluster": cluster, "distance": distance}


def read_classes(
    path: str | os.PathLike,
    classes: Sequence[int] | None,
    image_ids: Collection[int] | None = None,
) -> dict[tuple[int, int], int]:
    """(image_id, mask_id) → pseudo-class of assigned masks; 0 stands for background.

    Args:
        classes: of cluster 1, 2, …; None where every cluster is a class of its own.
        image_ids: images whose masks are wanted; None for all.
    """
    wanted = None if image_ids is None else pa.array(list(image_ids), pa.int64())
    found = {}
    with _damage_named(path):
        for batch in _open(path).iter_batches(columns=["image_id", "mask_id", "cluster"]):
            if wanted is not None:
                batch = batch.filter(pc.is_in(batch["image_id"], value_set=wanted))
            for image_id, mask_id, cluster in zip(*map(pa.Array.to_pylist, batch), strict=True):
                found[image_id, mask_id] = cluster if classes is None else classes[cluster - 1]
    return found


def assignments_digest(path: str | os.PathLike) -> str:
    """16 hexadecimal digits that change whenever any mask changes its cluster."""
    rows = sorted(
        (row["image_id"], row["mask_id"], row["cluster"])
        for row in read_rows(path, ["image_id", "mask_id", "cluster"])
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def read_with_centroids(
    embeddings: Iterable[str | os.PathLike], centroids: str | os.PathLike, *, standardize: bool
) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Mask embeddings and the centroids of the clusters, as distances between them are measured.

    Args:
        standardize: divide the embeddings by the standard deviation that the clustering, which did
            the same, has left with the centroids.

    Returns:
        (image_id, mask_id) of each, the vectors as n x d float32, and the centroids as C x d.
    """
    keys, vectors = read_embeddings(embeddings)
    if standardize:
        deviation = read_metadata(centroids)["standard_deviation"]
        vectors = vectors / np.array(deviation, dtype=np.float32)
    return keys, vectors, np.stack([row["centroid"] for row in read_rows(centroids)])


def assert_same_images(expected: Iterable[int], found: Iterable[int], what: str) -> None:
    """Merges lose no image: both sides hold the same image ids.

    Raises:
        InputError: with a few of the ids that differ.
    """
    expected, found = set(expected), set(found)
    if expected != found:
        missing, extra = sorted(expected - found)[:5], sorted(found - expected)[:5]
        raise InputError(
            f"{what}: images differ from the manifest's (missing {missing}, unexpected {extra}); "
            "remove the file and run again"
        )


# What reading a damaged file raises, by the place of the damage.
_DAMAGE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, json.JSONDecodeError)


@contextlib.contextmanager
def _damage_named(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(_missing(path)) from None
    except (*_DAMAGE, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged, or not a Parquet file ({reason}); remove it and run its stage again"
        ) from error


def _missing(path: str | os.PathLike) -> str:
    return f"{path}: no such file; check the path, or run the stage that writes it"
