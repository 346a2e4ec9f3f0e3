"""Parquet files of a clustering: embeddings, assignments and centroids."""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflow_scripts.maskdistill.files import shards


def read_embeddings(
    paths: Iterable[str | os.PathLike],
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Mask embeddings of one or several shards.

    Returns:
        (image_id, mask_id) of each embedding, and the vectors as n x d float32.
    """
    table = shards.read_table(paths)
    keys = list(zip(table["image_id"].to_pylist(), table["mask_id"].to_pylist(), strict=True))
    column = table["embedding"].combine_chunks()
    return keys, column.flatten().to_numpy().reshape(len(keys), column.type.list_size)


def read_vectors(
    paths: Sequence[str | os.PathLike], chosen: np.ndarray | None = None
) -> np.ndarray:
    """Vectors of mask embeddings; besides the result, at most one shard is held in memory.

    Args:
        paths: shards; row numbers continue from one shard to the next.
        chosen: row numbers, ascending; None for all.

    Returns:
        n x d float32.
    """
    counts = [shards.count_rows(path) for path in paths]
    if chosen is None:
        chosen = np.arange(sum(counts))
    width = shards.read_schema(paths[0]).field("embedding").type.list_size
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
    shards.write_table(path, "assignments", assignment_rows(keys, clusters, distances), metadata)


def assignment_rows(
    keys: Iterable[tuple[int, int]], clusters: np.ndarray, distances: np.ndarray
) -> Iterator[dict]:
    """Rows of the table `assignments` for the masks with these (image_id, mask_id)."""
    for (image_id, mask_id), cluster, distance in zip(keys, clusters, distances, strict=True):
        yield {"image_id": image_id, "mask_id": mask_id, "cluster": cluster, "distance": distance}


def read_classes(
    path: str | os.PathLike,
    classes: Sequence[int] | None,
    image_ids: Collection[int] | None = None,
) -> dict[tuple[int, int], int]:
    """(image_id, mask_id) → pseudo-class of assigned masks; 0 is background.

    Args:
        classes: the classes of clusters 1, 2, …; None if every cluster is its own class.
        image_ids: images whose masks are wanted; None for all.
    """
    wanted = None if image_ids is None else pa.array(list(image_ids), pa.int64())
    found = {}
    for batch in shards.read_batches(path, ["image_id", "mask_id", "cluster"]):
        if wanted is not None:
            batch = batch.filter(pc.is_in(batch["image_id"], value_set=wanted))
        for image_id, mask_id, cluster in zip(*map(pa.Array.to_pylist, batch), strict=True):
            found[image_id, mask_id] = cluster if classes is None else classes[cluster - 1]
    return found


def assignments_digest(path: str | os.PathLike) -> str:
    """16 hexadecimal digits that identify the assignment of all masks to clusters."""
    rows = sorted(
        (row["image_id"], row["mask_id"], row["cluster"])
        for row in shards.read_rows(path, ["image_id", "mask_id", "cluster"])
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def read_with_centroids(
    embeddings: Iterable[str | os.PathLike], centroids: str | os.PathLike, *, standardize: bool
) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Mask embeddings and the centroids of the clusters, ready to measure distances between them.

    Args:
        standardize: divide the embeddings by the standard deviation that the clustering stored
            with the centroids.

    Returns:
        (image_id, mask_id) of each embedding, the vectors as n x d float32, and the centroids as
        C x d.
    """
    keys, vectors = read_embeddings(embeddings)
    if standardize:
        deviation = shards.read_metadata(centroids)["standard_deviation"]
        vectors = vectors / np.array(deviation, dtype=np.float32)
    return keys, vectors, np.stack([row["centroid"] for row in shards.read_rows(centroids)])
