"""k-means of FAISS against scikit-learn's, for embeddings as wide as those of ViT-S."""

from collections.abc import Iterator

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from tests.bench import Row, median_seconds
from workflow_scripts.maskdistill import clustering

WIDTH, CLUSTERS, ITERATIONS = 384, 20, 20


def rows() -> Iterator[Row]:
    """Seconds a fit, the same number of iterations: points without structure never converge."""
    for count in (10_000, 100_000):
        points = np.random.default_rng(0).normal(size=(count, WIDTH)).astype(np.float32)

        def ours(points: np.ndarray = points) -> None:
            clustering.fit(
                points,
                clusters=CLUSTERS,
                metric="euclidean",
                iterations=ITERATIONS,
                redo=1,
                max_points=len(points),
                seed=0,
            )

        seconds = median_seconds(ours, repeats=3)
        for estimator in (KMeans, MiniBatchKMeans):
            reference = estimator(
                CLUSTERS, max_iter=ITERATIONS, n_init=1, init="random", tol=0, random_state=0
            )
            yield Row(
                what=f"k-means of {count:,} x {WIDTH}",
                value=seconds,
                unit="s",
                reference=median_seconds(lambda r=reference, p=points: r.fit(p), repeats=3),
                against=f"scikit-learn's {estimator.__name__}",
                at_most=None,
            )
