"""Suggestions for the number of clusters, by the silhouette and the stability of clusterings."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score, pairwise_distances, silhouette_score

from workflow_scripts.maskdistill.discovery import clustering
from workflow_scripts.maskdistill.errors import InputError

POINTS = 10_000  # embeddings that are clustered; of more, a random sample is taken
SILHOUETTE_POINTS = 2_000  # of them, for the silhouette, whose cost grows quadratically
RUNS = 5  # clusterings for each number of clusters, with different starts and samples
SAMPLED = 0.8  # share of the points that a run is fitted to
ITERATIONS = 30  # k-means steps per start
REDO = 10  # starts per clustering; the best is kept
SUGGESTIONS = 3  # the most numbers of clusters that are suggested


class ClusterCount(NamedTuple):
    """Measures for one number of clusters; all but `clusters` are means over the runs."""

    clusters: int
    # -1..1: how much nearer a point is to its own cluster than to the nearest other cluster.
    silhouette: float
    # Mean adjusted Rand index over pairs of runs: 1 if all runs find the same clusters.
    stability: float
    smallest: float  # number of points in the smallest, the median and the largest cluster
    median: float
    largest: float

    @property
    def score(self) -> float:
        """Silhouette times stability; a negative factor counts as 0."""
        return max(self.silhouette, 0.0) * max(self.stability, 0.0)


def prepare(embeddings: np.ndarray, *, standardize: bool) -> np.ndarray:
    """The n x d embeddings as points for `compare`, divided by the deviation if `standardize`."""
    if not standardize or not len(embeddings):
        return embeddings
    return embeddings / clustering.standard_deviation(embeddings)


def compare(
    points: np.ndarray, counts: Sequence[int], *, metric: str, seed: int
) -> list[ClusterCount]:
    """Cluster the same points into each number of clusters, several times.

    Each run is fitted to a sample of the points and assigns all of them, so that runs can be
    compared point by point.

    Args:
        points: n x d, float32, see `prepare`.
        counts: numbers of clusters; 1, and numbers for which a run has too few points, are left
            out.
        metric: the metric of the clustering, see `clustering.fit`.
        seed: seed of the samples.

    Returns:
        One item for each number that was compared, in ascending order.

    Raises:
        InputError: there are too few points for any of the numbers.
    """
    chosen = clustering.sample(len(points), POINTS, seed)
    points = points if chosen is None else points[chosen]
    fitted = int(SAMPLED * len(points))
    counts = sorted(count for count in set(counts) if 2 <= count < fitted)
    if not counts:
        raise InputError(
            f"{len(points)} masks are too few to compare numbers of clusters; add images, or add "
            "smaller numbers to clustering.suggestions"
        )
    rng = np.random.default_rng(seed)
    shown = rng.permutation(len(points))[:SILHOUETTE_POINTS]
    distances = pairwise_distances(points[shown], metric=metric)
    np.fill_diagonal(distances, 0)
    samples = [rng.choice(len(points), fitted, replace=False) for _ in range(RUNS)]
    return [_of_count(points, count, metric, shown, distances, samples) for count in counts]


def _of_count(
    points: np.ndarray,
    count: int,
    metric: str,
    shown: np.ndarray,
    distances: np.ndarray,
    samples: Sequence[np.ndarray],
) -> ClusterCount:
    assigned = []
    for run, sample in enumerate(samples):
        centroids = clustering.fit(
            points[sample],
            clusters=count,
            metric=metric,
            iterations=ITERATIONS,
            redo=REDO,
            seed=run,
        )
        assigned.append(clustering.assign(points, centroids, metric=metric)[0])
    sizes = np.array([np.bincount(run, minlength=count + 1)[1:] for run in assigned])
    silhouettes = [
        silhouette_score(distances, run[shown], metric="precomputed")
        for run in assigned
        if 1 < len(np.unique(run[shown])) < len(shown)
    ]
    return ClusterCount(
        count,
        float(np.mean(silhouettes)) if silhouettes else 0.0,
        float(np.mean([adjusted_rand_score(a, b) for a, b in combinations(assigned, 2)])),
        float(sizes.min(axis=1).mean()),
        float(np.median(sizes, axis=1).mean()),
        float(sizes.max(axis=1).mean()),
    )


def suggest(found: Sequence[ClusterCount]) -> list[int]:
    """The numbers of clusters with the best scores, best first; at most `SUGGESTIONS`.

    A number is suggested if its score is a local maximum in the list `found`. The smallest number
    does not count as one, because a few coarse groups are nearly always well separated, but are
    seldom the classes that a user looks for. Without any local maximum, the number with the best
    score is suggested.

    Args:
        found: result of `compare`, in ascending order of the number of clusters.
    """
    scores = [one.score for one in found]
    peaks = [
        i
        for i in range(1, len(scores))
        if scores[i] > scores[i - 1] and scores[i] >= max(scores[i + 1 : i + 2], default=0.0)
    ] or [int(np.argmax(scores))]
    best = sorted(peaks, key=lambda i: -scores[i])[:SUGGESTIONS]
    return [found[i].clusters for i in best]


def example(
    points: np.ndarray, clusters: int, *, metric: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster all points once, as an example: clusters 1..C, and distances to the centroids."""
    centroids = clustering.fit(
        points, clusters=clusters, metric=metric, iterations=ITERATIONS, redo=REDO, seed=seed
    )
    return clustering.assign(points, centroids, metric=metric)
