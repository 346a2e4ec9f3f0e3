"""Confusion matrix and matching, compared with loops; mask AP, compared with pycocotools."""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from tests.bench import Row, alternating_seconds, median_seconds
from workflow_scripts.evaluate_instances import PART
from workflow_scripts.maskdistill.evaluation import confusion_matrix, matching
from workflow_scripts.maskdistill.evaluation.mask_ap import MaskAP
from workflow_scripts.maskdistill.files import masks

SIZE = (375, 500)
CLASSES = 20
IMAGES = 8
SPLIT = 100  # number of images for mask AP


def rows() -> Iterator[Row]:
    """Milliseconds per image, per matching and per split."""
    generator = np.random.default_rng(0)
    target = generator.integers(0, CLASSES + 1, (25, 34)).repeat(15, 0).repeat(15, 1)
    target = target[: SIZE[0], : SIZE[1]].astype(np.uint8)
    pairs = [(np.roll(target, 7 * (1 + i), axis=1), target) for i in range(IMAGES)]
    one = pairs[:1]
    assert (counts(one) == loops(one)).all()
    yield Row(
        what=f"confusion matrix of {SIZE[0]} x {SIZE[1]}, {CLASSES} classes and clusters",
        value=1000 * median_seconds(lambda: counts(one), repeats=20),
        unit="ms",
        reference=1000 * median_seconds(lambda: loops(one)),
        against="a boolean map for every class and cluster",
        at_most=1 / 50,
    )

    def ours() -> np.ndarray:
        return matching.hungarian(counts(pairs))

    assert (ours() == matched_in_loops(pairs)).all()
    yield Row(
        what=f"confusion matrix of {IMAGES} images, and Hungarian matching",
        value=1000 * median_seconds(ours),
        unit="ms",
        reference=1000 * median_seconds(lambda: matched_in_loops(pairs), repeats=1),
        against="boolean maps, and a loop over pairs of labels",
        at_most=1 / 50,
    )
    yield average_precision()


def counts(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Confusion matrix of pairs (prediction, ground truth), computed by the workflow's code."""
    matrix = confusion_matrix.ConfusionMatrix(CLASSES, CLASSES)
    for prediction, target in pairs:
        matrix.add(prediction, target)
    return matrix.counts


def loops(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The confusion matrix by a loop over all pairs of a class and a cluster."""
    labels = range(CLASSES + 1)
    return sum(
        np.array([[np.sum((target == t) & (found == p)) for p in labels] for t in labels])
        for found, target in pairs
    )


def matched_in_loops(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Hungarian matching from clusters to classes, with IoUs computed in a loop."""
    common = loops(pairs)
    labels = range(1, CLASSES + 1)
    iou = np.zeros((CLASSES, CLASSES))
    for t in labels:
        for p in labels:
            union = common[t].sum() + common[:, p].sum() - common[t, p]
            iou[t - 1, p - 1] = common[t, p] / union
    mapping = np.zeros(CLASSES + 1, np.int64)
    for t, p in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        mapping[p + 1] = t + 1 if iou[t, p] else confusion_matrix.UNMATCHED
    return mapping


def average_precision() -> Row:
    """Time for the mask AP of a split with 3 objects and 20 detections per image."""
    generator = np.random.default_rng(0)

    def entry(image_id: int) -> dict:
        top, left = generator.integers(0, 250, size=2)
        mask = np.zeros(SIZE, bool)
        mask[top : top + generator.integers(30, 120), left : left + 150] = True
        found = masks.encode(mask)
        return {
            "image_id": image_id,
            "category_id": int(generator.integers(1, CLASSES + 1)),
            "segmentation": {"size": list(SIZE), "counts": found.rle_counts},
            "bbox": [found.x, found.y, found.box_width, found.box_height],
            "area": found.area,
        }

    ids = range(1, SPLIT + 1)
    objects = [{**entry(i), "iscrowd": 0} for i in ids for _ in range(3)]
    detections = [{**entry(i), "score": float(generator.uniform())} for i in ids for _ in range(20)]

    def ours() -> tuple[float, ...]:
        ap = MaskAP(CLASSES)
        for start in range(0, SPLIT, PART):
            some = ids[start : start + PART]
            parts = (
                [entry for entry in entries if entry["image_id"] in some]
                for entries in (objects, detections)
            )
            ap.add(some, *parts)
        return ap.result()

    def plain() -> tuple[float, ...]:
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in ids],
            "annotations": [{**o, "id": n} for n, o in enumerate(objects, start=1)],
            "categories": [{"id": c} for c in range(1, CLASSES + 1)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            results = truth.loadRes([dict(found) for found in detections])
            evaluation = COCOeval(truth, results, "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return tuple(evaluation.stats[:3])

    assert ours() == plain()
    seconds, reference = alternating_seconds(ours, plain)
    return Row(
        what=f"mask AP of {SPLIT} images",
        value=1000 * seconds,
        unit="ms",
        reference=1000 * reference,
        against="pycocotools with all sizes of objects",
        at_most=1,
    )
