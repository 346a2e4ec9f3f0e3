"""k-means of FAISS, compared with scikit-learn, for embeddings as wide as those of ViT-S."""

import functools
from collections.abc import Iterator

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from tests.bench import Row, alternating_seconds
from workflow_scripts.maskdistill.discovery import clustering

WIDTH, CLUSTERS = 384, 20
COUNTS = (10_000, 100_000, 1_000_000)
STARTS, STEPS = 5, 100  # as by default; FAISS stops early only if nothing changes, hence tol=0
WORSE = 1.01  # bound on the sum of squared distances, divided by scikit-learn's sum


def rows() -> Iterator[Row]:
    """Seconds per fit and squared distances; points form three times as many groups as clusters."""
    for count in COUNTS:
        points = grouped(count)
        # With the most points, one fit takes long enough for a single measurement.
        often = {"repeats": 9} if count < COUNTS[-1] else {"repeats": 1, "warm_up": False}
        found = {}

        def fit(points: np.ndarray = points, found: dict = found) -> None:
            found["centroids"] = clustering.fit(
                points, clusters=CLUSTERS, metric="euclidean", iterations=STEPS, redo=STARTS, seed=0
            )

        estimators = [
            kind(CLUSTERS, max_iter=STEPS, n_init=STARTS, init="random", tol=0, random_state=0)
            for kind in (KMeans, MiniBatchKMeans)
        ]
        calls = (functools.partial(estimator.fit, points) for estimator in estimators)
        seconds, *references = alternating_seconds(fit, *calls, **often)
        distances = clustering.assign(points, found["centroids"], metric="euclidean")[1]
        quality = float(np.square(distances, dtype=np.float64).sum())
        for estimator, reference in zip(estimators, references, strict=True):
            name = f"scikit-learn's {type(estimator).__name__}"
            yield Row(
                what=f"k-means of {count:,} x {WIDTH}, {STARTS} starts",
                value=seconds,
                unit="s",
                reference=reference,
                against=name,
                # No bound for MiniBatchKMeans, which is faster because it uses few of the points;
                # its squared distances, in the next row, are larger.
                at_most=1 if isinstance(estimator, KMeans) else None,
            )
            yield Row(
                what=f"sum of squared distances after k-means of {count:,} x {WIDTH}",
                value=quality,
                unit="",
                reference=float(estimator.inertia_),
                against=name,
                at_most=WORSE,
            )


def grouped(count: int) -> np.ndarray:
    """Points around many centres, float32."""
    generator = np.random.default_rng(0)
    centres = generator.normal(scale=0.6, size=(3 * CLUSTERS, WIDTH)).astype(np.float32)
    points = generator.standard_normal((count, WIDTH), dtype=np.float32)
    points += centres[generator.integers(0, len(centres), count)]
    return points
