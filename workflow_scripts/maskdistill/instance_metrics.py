"""Masks against annotated objects: AP by pycocotools, overlap, coverage and calibration.

Objects and detections are COCO's own entries, dictionaries with `image_id`, `category_id`,
`segmentation` (RLE), `bbox` (XYWH in pixels) and, of objects, `area` and `iscrowd`, of detections,
`score`. A detection's category is its cluster, until `as_classes` makes it a class.

Crowds and void are treated as pycocotools treats them: a detection that lies in a crowd counts
neither way; pixels that belong to no object (VOC's void among them) are background.
"""

import contextlib
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import spearmanr

from workflow_scripts.maskdistill import masks
from workflow_scripts.maskdistill.ground_truth import Instance
from workflow_scripts.maskdistill.metrics import UNMATCHED

HIT = 0.5  # mask IoU above which an object is found


class AveragePrecision(NamedTuple):
    """Fractions of 1; nan where there is no object to find."""

    ap: float  # mean over the IoU thresholds 0.50, 0.55, …, 0.95
    ap50: float
    ap75: float


def objects_of_image(image_id: int, instances: Iterable[Instance]) -> list[dict]:
    """The annotated objects of one image as COCO annotations, without their `id`."""
    return [
        {
            "image_id": image_id,
            "category_id": instance.class_id,
            "iscrowd": int(instance.crowd),
            **_shape(masks.encode(instance.mask)),
        }
        for instance in instances
    ]


def _shape(mask: masks.EncodedMask) -> dict:
    return {
        "segmentation": {"size": [mask.height, mask.width], "counts": mask.rle_counts},
        "bbox": [mask.x, mask.y, mask.box_width, mask.box_height],
        "area": mask.area,
    }


def as_classes(detections: Iterable[Mapping], mapping: np.ndarray) -> list[dict]:
    """Give detections the classes that their clusters stand for.

    Args:
        mapping: C + 1 integers, cluster → class or `UNMATCHED`.

    Returns:
        Copies with the class as `category_id`; detections of clusters that stand for no class, or
        for background, claim no object and are left out.
    """
    classes = ((entry, int(mapping[entry["category_id"]])) for entry in detections)
    return [
        {**entry, "category_id": class_id}
        for entry, class_id in classes
        if class_id not in (0, UNMATCHED)
    ]


def average_precision(
    image_ids: Iterable[int],
    objects: Sequence[Mapping],
    detections: Sequence[Mapping],
    *,
    classes: int | None,
) -> AveragePrecision:
    """Mask AP over all sizes, at most 100 detections an image, as pycocotools computes it.

    Args:
        image_ids: of all images of the split, also those without object or detection.
        classes: K, for detections whose categories are classes; None ignores all categories
            (class-agnostic).
    """
    if not any(not entry["iscrowd"] for entry in objects):
        return AveragePrecision(np.nan, np.nan, np.nan)
    # pycocotools leaves out detections of unknown categories even where categories do not count.
    known = max(entry["category_id"] for entry in itertools.chain(objects, detections))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            # Sizes would serve polygons; all masks are run lengths here.
            "images": [{"id": image_id, "height": 0, "width": 0} for image_id in image_ids],
            # Not from 0: pycocotools takes a match with the annotation 0 for none.
            "annotations": [{**entry, "id": i} for i, entry in enumerate(objects, start=1)],
            "categories": [{"id": class_id} for class_id in range(1, (classes or known) + 1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, _results(truth, detections), "segm")
        evaluation.params.useCats = int(classes is not None)
        # All sizes at once; small, medium and large ones by themselves would take thrice the time.
        for name in ("areaRng", "areaRngLbl"):
            setattr(evaluation.params, name, getattr(evaluation.params, name)[:1])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return AveragePrecision(*map(float, evaluation.stats[:3]))


def _results(truth: COCO, detections: Sequence[Mapping]) -> COCO:
    if detections:
        return truth.loadRes([dict(entry) for entry in detections])
    empty = COCO()  # loadRes refuses an empty list
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def single_object(
    objects: Sequence[Mapping], detections: Sequence[Mapping]
) -> tuple[list[Mapping], list[Mapping]]:
    """The single-object setting (Section A.4): one detection and one object an image.

    Of the detections of an image the most confident one stays (of equals, the first), of its
    objects the one with the largest box IoU with that detection; of equals, and where nothing was
    detected, the largest. Crowds stay: they are no objects.
    """
    by_image = _by_image(detections)
    best = {image_id: max(found, key=lambda d: d["score"]) for image_id, found in by_image.items()}
    chosen = [entry for entry in objects if entry["iscrowd"]]
    for image_id, present in _by_image(o for o in objects if not o["iscrowd"]).items():
        overlaps = np.zeros(len(present))
        if image_id in best:
            boxes = np.array([entry["bbox"] for entry in present], dtype=float)
            own = np.array([best[image_id]["bbox"]], dtype=float)
            overlaps = coco_mask.iou(own, boxes, [0] * len(boxes))[0]
        ranked = zip(overlaps, present, strict=True)
        chosen.append(max(ranked, key=lambda pair: (pair[0], pair[1]["area"]))[1])
    return chosen, list(best.values())


class Overlaps(NamedTuple):
    """Mask IoU of detections with the objects of their images, whatever the classes."""

    of_detections: np.ndarray  # with the best object; 0 in an image without any
    of_objects: np.ndarray  # with the best detection; crowds are left out


def best_overlaps(objects: Sequence[Mapping], detections: Sequence[Mapping]) -> Overlaps:
    """Mask IoU of every detection with its best object, and of every object, in their order."""
    objects = [entry for entry in objects if not entry["iscrowd"]]
    result = Overlaps(np.zeros(len(detections)), np.zeros(len(objects)))
    numbered = _by_image(objects, numbers=True)
    for image_id, found in _by_image(detections, numbers=True).items():
        if present := numbered.get(image_id):
            overlaps = coco_mask.iou(
                [detections[i]["segmentation"] for i in found],
                [objects[j]["segmentation"] for j in present],
                [0] * len(present),
            )
            result.of_detections[found] = overlaps.max(axis=1)
            result.of_objects[present] = overlaps.max(axis=0)
    return result


def _by_image(entries: Iterable[Mapping], *, numbers: bool = False) -> dict[int, list]:
    groups = defaultdict(list)
    for number, entry in enumerate(entries):
        groups[entry["image_id"]].append(number if numbers else entry)
    return groups


def calibration(scores: np.ndarray, overlaps: np.ndarray, *, bins: int = 10) -> dict:
    """How mask IoU goes with the score: the claim that confidence tracks quality.

    Args:
        scores: n, 0..1.
        overlaps: n mask IoU with the best object.
        bins: number of equal intervals of the score; the last one holds 1.

    Returns:
        JSON values: `rank_correlation` (Spearman's; nan for fewer than two different values) and
        `bins`, each with `low`, `high`, `count` and the means `score`, `iou` and `hit_rate`, the
        share with an IoU above 0.5 (nan in an empty bin).
    """
    place = np.minimum((scores * bins).astype(int), bins - 1)
    rows = []
    for i in range(bins):
        inside = place == i
        count = int(inside.sum())
        means = [
            float(values[inside].mean()) if count else np.nan
            for values in (scores, overlaps, overlaps > HIT)
        ]
        row = dict(zip(("score", "iou", "hit_rate"), means, strict=True))
        rows.append({"low": i / bins, "high": (i + 1) / bins, "count": count, **row})
    varied = len(np.unique(scores)) > 1 and len(np.unique(overlaps)) > 1
    correlation = float(spearmanr(scores, overlaps).statistic) if varied else np.nan
    return {"rank_correlation": correlation, "bins": rows}
