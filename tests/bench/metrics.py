"""The confusion matrix and the matching, against loops over classes and clusters."""

from collections.abc import Iterator

import numpy as np

from tests.bench import Row, median_seconds
from workflow_scripts.maskdistill import metrics

SIZE = (375, 500)
CLASSES = 20


def rows() -> Iterator[Row]:
    """Milliseconds an image, or a matching."""
    generator = np.random.default_rng(0)
    target = generator.integers(0, CLASSES + 1, (25, 34)).repeat(15, 0).repeat(15, 1)
    target = target[: SIZE[0], : SIZE[1]].astype(np.uint8)
    prediction = np.roll(target, 7, axis=1)

    def ours() -> np.ndarray:
        matrix = metrics.ConfusionMatrix(CLASSES, CLASSES)
        matrix.add(prediction, target)
        return matrix.counts

    assert (ours() == loops(prediction, target)).all()
    yield Row(
        what=f"confusion matrix of {SIZE[0]} x {SIZE[1]}, {CLASSES} classes and clusters",
        value=1000 * median_seconds(ours, repeats=20),
        unit="ms",
        reference=1000 * median_seconds(lambda: loops(prediction, target)),
        against="a boolean map for every class and cluster",
        at_most=1 / 50,
    )


def loops(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Counts by one pair of boolean maps after the other."""
    labels = range(CLASSES + 1)
    return np.array([[np.sum((target == t) & (prediction == p)) for p in labels] for t in labels])
