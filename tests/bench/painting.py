"""Painting of label maps from confident candidates, compared with a loop over annotations."""

from collections.abc import Iterator

import numpy as np
from pycocotools import mask as coco_mask

from tests.bench import Row, median_seconds
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.segmentation import confidence

SIZE = (480, 640)
CANDIDATES = 40  # per image; most have a score below τ
THRESHOLD, CLUSTERS = 0.9, 20


def rows() -> Iterator[Row]:
    """Milliseconds per image."""
    generator = np.random.default_rng(0)
    candidates = []
    for number in range(CANDIDATES):
        mask = np.zeros(SIZE, bool)
        top, left = generator.integers(0, 300, size=2)
        mask[top : top + 150, left : left + 200] = True
        encoded = masks.encode(mask)
        candidates.append(
            {
                "candidate_id": number,
                "cluster": 1 + number % CLUSTERS,
                "score": float(generator.uniform()),
                **encoded._asdict(),
            }
        )

    def ours() -> np.ndarray:
        ranked = confidence.confident(candidates, THRESHOLD, keep_best=True)
        return confidence.paint(ranked, SIZE, CLUSTERS)

    assert (ours() == loop(candidates)).all()
    yield Row(
        what=f"filter and paint {CANDIDATES} candidates of {SIZE[0]} x {SIZE[1]}",
        value=1000 * median_seconds(ours, repeats=20),
        unit="ms",
        reference=1000 * median_seconds(lambda: loop(candidates), repeats=20),
        against="decode all, then a loop over the annotations",
        at_most=1 / 5,
    )


def loop(candidates: list[dict]) -> np.ndarray:
    """Decode every annotation; each pixel gets the label of the most confident one there."""
    best = np.full(SIZE, -1.0)
    labels = np.zeros(SIZE, np.uint8)
    for row in candidates:
        mask = coco_mask.decode({"size": list(SIZE), "counts": row["rle_counts"]})
        for_this = (mask > 0) & (row["score"] > best) & (row["score"] > THRESHOLD)
        labels[for_this] = row["cluster"]
        best[for_this] = row["score"]
    return labels
