"""Scores of masks compared with annotated objects: AP, overlap, coverage and calibration.

Objects and detections are entries of COCO files: dictionaries with `image_id`, `category_id`,
`segmentation` (RLE), `bbox` (XYWH in pixels), and `area` and `iscrowd` (objects) or `score`
(detections). A detection's category is its cluster until `as_classes` replaces it by a class.

Crowds and void are treated as in pycocotools: a detection inside a crowd is neither right nor
wrong, and pixels of no object (including VOC's void) are background.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from scipy.stats import spearmanr

from workflow_scripts.maskdistill.data.ground_truth import Instance
from workflow_scripts.maskdistill.evaluation import matching
from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED
from workflow_scripts.maskdistill.evaluation.mask_ap import MaskAP
from workflow_scripts.maskdistill.evaluation.step_titles import CANDIDATE_STEPS
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.progress import progress_bar

HIT = 0.5  # mask IoU above which an object counts as found


def score_step(
    step: str,
    batches: Iterable[tuple[list[int], list[dict], list[dict]]],
    metrics: Mapping,
    images: int,
) -> dict:
    """The part of instances.json for one step; undefined values are null.

    Args:
        step: name of the step; for candidates a calibration of the confidences is added.
        batches: image ids, objects and detections, see `detections.batches_of_images`.
        metrics: content of metrics.json, for the matching of clusters with classes.
        images: number of images, for the progress bar.

    Raises:
        InputError: the metrics lack the step.
    """
    mapping = matching.stored_mapping(metrics, step)
    measured = InstanceMetrics(mapping, len(metrics["class_names"]) - 1)
    with progress_bar(total=images, description=step, unit="image") as bar:
        for image_ids, objects, detections in batches:
            measured.add(image_ids, objects, detections)
            bar.update(len(image_ids))
    scores = measured.result() | {"matching": metrics["steps"][step]["matching"]["method"]}
    if step in CANDIDATE_STEPS:
        scores["calibration"] = measured.calibration()
    return _null_for_nan(scores)


def _null_for_nan(value):
    """Copy a tree of JSON values with None for every nan."""
    if isinstance(value, dict):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


class InstanceMetrics:
    """The metrics of one step; images are added a few at a time, and no mask is kept.

    Args:
        mapping: cluster → class, see `matching.Matching`.
        classes: K.
    """

    def __init__(self, mapping: np.ndarray, classes: int) -> None:
        self._mapping = mapping
        # The four settings of the paper's Table 3.
        self._agnostic = {setting: MaskAP(None) for setting in ("multi", "single")}
        self._aware = {setting: MaskAP(classes) for setting in ("multi", "single")}
        self._images = self._objects = self._found = 0
        self._scores, self._overlaps = (
            array("f"),
            array("d"),
        )  # float32 for scores, as in the files of candidates

    def add(
        self, image_ids: Sequence[int], objects: Sequence[Mapping], detections: Sequence[Mapping]
    ) -> None:
        """Add the objects and detections of some images to the metrics.

        Args:
            image_ids: ids of these images, none of which may have been added before.
            objects: annotated objects of these images.
            detections: detections in these images, with clusters as categories.
        """
        overlaps = best_overlaps(objects, detections)
        self._images += len(image_ids)
        self._objects += len(overlaps.of_objects)
        self._found += int(np.count_nonzero(overlaps.of_objects > HIT))
        self._scores.extend(entry["score"] for entry in detections)
        self._overlaps.extend(overlaps.of_detections)
        pairs = {
            "multi": (objects, detections),
            "single": single_object(objects, detections),
        }
        for setting, (present, found) in pairs.items():
            self._agnostic[setting].add(image_ids, present, found)
            self._aware[setting].add(image_ids, present, as_classes(found, self._mapping))

    def result(self) -> dict:
        """AP, coverage, and overlap with the best object.

        Returns:
            JSON values: numbers of masks, and scores from 0 to 1; undefined scores are nan.
        """
        overlaps = np.array(self._overlaps)
        result = {
            "masks": len(overlaps),
            "masks_per_image": len(overlaps) / max(self._images, 1),
            "coverage": self._found / self._objects if self._objects else np.nan,
            "best_object_iou": {
                "mean": float(overlaps.mean()) if len(overlaps) else np.nan,
                "median": float(np.median(overlaps)) if len(overlaps) else np.nan,
            },
        }
        for setting in self._agnostic:
            result[f"class_agnostic_{setting}"] = self._agnostic[setting].result()._asdict()
            result[f"class_aware_{setting}"] = self._aware[setting].result()._asdict()
        return result

    def calibration(self) -> dict:
        """Calibration of the scores of all detections, see the function `calibration`."""
        return calibration(np.array(self._scores, dtype=np.float64), np.array(self._overlaps))


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
    """Replace the clusters of detections by the matched classes.

    Args:
        mapping: C + 1 integers, cluster → class or `UNMATCHED`.

    Returns:
        Copies with the class as `category_id`. Detections of clusters without a class, or matched
        with background, are left out.
    """
    classes = ((entry, int(mapping[entry["category_id"]])) for entry in detections)
    return [
        {**entry, "category_id": class_id}
        for entry, class_id in classes
        if class_id not in (0, UNMATCHED)
    ]


def single_object(
    objects: Sequence[Mapping], detections: Sequence[Mapping]
) -> tuple[list[Mapping], list[Mapping]]:
    """The single-object setting (Section A.4): one detection and one object per image.

    In each image, the most confident detection is kept (the first one if several are equally
    confident), and the object whose box has the largest IoU with the box of that detection. If
    several objects have the same IoU, or the image has no detections, the largest object is kept.
    All crowds are kept, because they do not count as objects.
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
    """Mask IoU of detections with the objects of their images, regardless of classes."""

    of_detections: np.ndarray  # IoU with the best object; 0 in an image without objects
    of_objects: np.ndarray  # IoU with the best detection; crowds are left out


def best_overlaps(objects: Sequence[Mapping], detections: Sequence[Mapping]) -> Overlaps:
    """Mask IoU of each detection with its best object, and vice versa."""
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
    """How the mask IoU depends on the score: whether confident masks are better.

    Args:
        scores: n, 0..1.
        overlaps: n mask IoU with the best object.
        bins: number of equal intervals of the score; the last one includes 1.

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
