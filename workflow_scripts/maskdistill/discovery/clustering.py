"""Pseudo-classes by k-means (FAISS) on the embeddings of masked objects."""

import contextlib
from collections.abc import Iterator

import faiss
import numpy as np

from workflow_scripts.maskdistill.errors import InputError

# Points per cluster for the k-means runs from different starts: the default of FAISS. The best run
# is then continued with all points.
START_POINTS = 256
# Up to this number of clusters, FAISS's own loops are faster than matrix products by BLAS, whose
# matrices are too narrow for several threads.
FEW_CLUSTERS = 32


def sample(count: int, max_points: int, seed: int) -> np.ndarray | None:
    """Indices of at most `max_points` of `count` embeddings, in order; None for all."""
    if count <= max_points:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, max_points, replace=False))


def fit(
    embeddings: np.ndarray,
    *,
    clusters: int,
    metric: str,
    iterations: int,
    redo: int,
    seed: int,
) -> np.ndarray:
    """Fit k-means; clusters are ordered by falling size, so that cluster 1 is the largest.

    If a cluster becomes empty, FAISS splits a large cluster in two. The embeddings are copied, so
    that they are in memory twice.

    Args:
        embeddings: n x d, float32.
        metric: "cosine" (embeddings and centroids of unit length) or "euclidean".
        iterations: k-means steps per run.
        redo: number of runs from different starts; the best run is kept.
        seed: seed of random starts and of FAISS's samples of points; it determines the centroids.

    Returns:
        clusters x d, float32.

    Raises:
        InputError: there are no embeddings or fewer than clusters, or some are not finite.
    """
    if not len(embeddings):
        raise InputError(
            "no mask can be used; the logs of the masks count the reasons: if masks are whole "
            "images, set masks.center_keys: auto; if they are too small or too large, change "
            "masks.least_share or masks.largest_share"
        )
    if len(embeddings) < clusters:
        raise InputError(
            f"{len(embeddings)} masks cannot form {clusters} clusters; lower clustering.clusters "
            "or add images"
        )
    if not (np.isfinite(embeddings.min()) and np.isfinite(embeddings.max())):
        raise InputError("embeddings are not finite; check the weights of the backbone")
    points = _prepare(embeddings, metric)
    options = {
        "niter": iterations,
        "seed": seed,
        "spherical": metric == "cosine",
        "min_points_per_centroid": 1,
        "gpu": _gpus() > 0,
    }
    with _fast_products(clusters):
        kmeans = faiss.Kmeans(
            points.shape[1], clusters, nredo=redo, max_points_per_centroid=START_POINTS, **options
        )
        kmeans.train(points)
        if len(points) > START_POINTS * clusters:
            start = kmeans.centroids
            kmeans = faiss.Kmeans(
                points.shape[1], clusters, max_points_per_centroid=len(points), **options
            )
            kmeans.train(points, init_centroids=start)
        nearest = kmeans.index.search(points, 1)[1][:, 0]
    sizes = np.bincount(nearest, minlength=clusters)
    return kmeans.centroids[np.argsort(-sizes, kind="stable")]


def standard_deviation(embeddings: np.ndarray) -> np.ndarray:
    """The standard deviation of each dimension of n x d embeddings, or 1 where it is 0.

    Returns:
        d, float32.
    """
    deviation = embeddings.std(axis=0, dtype=np.float64)
    return np.where(deviation > 0, deviation, 1).astype(np.float32)


def assign(
    embeddings: np.ndarray, centroids: np.ndarray, *, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest cluster of every embedding.

    Args:
        embeddings: n x d, float32.
        centroids: result of `fit`.
        metric: the metric of `fit`.

    Returns:
        Two arrays of length n: clusters 1..C (int32), and distances to their centroids (float32),
        1 - cosine or Euclidean.
    """
    if not len(embeddings):
        return np.empty(0, np.int32), np.empty(0, np.float32)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(_prepare(centroids, metric))
    squared, nearest = index.search(_prepare(embeddings, metric), 1)
    squared = np.maximum(squared[:, 0], 0)
    # For unit vectors, |a - b|² = 2 (1 - cos).
    distance = squared / 2 if metric == "cosine" else np.sqrt(squared)
    return (nearest[:, 0] + 1).astype(np.int32), distance.astype(np.float32)


def margins(embeddings: np.ndarray, centroids: np.ndarray, *, metric: str) -> np.ndarray:
    """Distance to the second nearest centroid minus the distance to the nearest centroid.

    Args:
        embeddings: n x d, float32.
        centroids: result of `fit`, at least two.

    Returns:
        Length n, float32; 0 on the border between two clusters. Distances are those of `assign`.
    """
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(_prepare(centroids, metric))
    squared = np.maximum(index.search(_prepare(embeddings, metric), 2)[0], 0)
    near, far = (squared / 2 if metric == "cosine" else np.sqrt(squared)).T
    return far - near


def _prepare(vectors: np.ndarray, metric: str) -> np.ndarray:
    vectors = np.array(vectors, dtype=np.float32, order="C")
    if metric == "cosine":
        faiss.normalize_L2(vectors)
    return vectors


@contextlib.contextmanager
def _fast_products(clusters: int) -> Iterator[None]:
    """Let FAISS use its own loops instead of BLAS if there are few clusters."""
    before = faiss.cvar.distance_compute_blas_threshold
    if clusters <= FEW_CLUSTERS:
        faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def _gpus() -> int:
    return faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
