"""Mask AP by pycocotools; images are added a few at a time, which needs little memory."""

import contextlib
import io
import itertools
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

MAX_DETECTIONS = 100  # per image; the most confident ones are used


class AveragePrecision(NamedTuple):
    """Average precision, from 0 to 1; nan if there are no objects."""

    ap: float  # mean over the IoU thresholds 0.50, 0.55, …, 0.95
    ap50: float
    ap75: float


class _Detections:
    """What AP needs to know about the detections of one category, in 8 bytes per detection."""

    def __init__(self) -> None:
        self.objects = 0  # number of annotated objects
        self._images = array("q")  # pairs: image id, number of its detections
        self._scores = array("f")  # float32 is enough, as only their order matters
        # Per detection: 10 bits for the thresholds at which it is matched, and 10 bits for those at
        # which it is ignored, each padded to 2 bytes.
        self._bits = bytearray()

    def add(self, found: Mapping) -> None:
        """Add COCOeval's result of one image."""
        self.objects += int(np.count_nonzero(found["gtIgnore"] == 0))
        self._images.extend((found["image_id"], len(found["dtScores"])))
        self._scores.extend(found["dtScores"])
        outcomes = (found["dtMatches"] != 0, found["dtIgnore"])
        self._bits += np.hstack([np.packbits(outcome.T, axis=1) for outcome in outcomes]).tobytes()

    def at(self, threshold: int) -> dict:
        """The detections of all images in the format in which COCOeval describes one image.

        Args:
            threshold: position of the IoU threshold in COCOeval's list of thresholds.

        Returns:
            The entries of `COCOeval.evalImgs` that `COCOeval.accumulate` reads; detections are
            ordered by the id of their image.
        """
        ids, counts = np.frombuffer(self._images, np.int64).reshape(-1, 2).T
        order = np.argsort(np.repeat(ids, counts), kind="stable")
        bits = np.frombuffer(self._bits, np.uint8).reshape(-1, 2, 2)[order]
        byte, bit = divmod(threshold, 8)
        matched, ignored = (bits[..., byte] >> (7 - bit)).T & 1
        return {
            "dtScores": np.frombuffer(self._scores, np.float32)[order],
            "dtMatches": matched[None],
            "dtIgnore": ignored[None],
            "gtIgnore": np.zeros(self.objects),
        }

    def __len__(self) -> int:
        return len(self._scores)


class MaskAP:
    """Mask AP over objects of all sizes, with at most 100 detections per image.

    Args:
        classes: K; None for class-agnostic AP, which ignores all categories.
    """

    def __init__(self, classes: int | None) -> None:
        self._classes = classes
        self._categories: dict[int, _Detections] = defaultdict(_Detections)

    def add(
        self, image_ids: Sequence[int], objects: Sequence[Mapping], detections: Sequence[Mapping]
    ) -> None:
        """Match the detections of some images.

        Args:
            image_ids: ids of these images, including those without objects or detections; none
                may have been added before.
            objects, detections: entries of these images, see `object_scores`.
        """
        if not objects and not detections:
            return
        with contextlib.redirect_stdout(io.StringIO()):
            for found in _matches(image_ids, objects, detections, self._classes):
                self._categories[found["category_id"]].add(found)

    def result(self) -> AveragePrecision:
        """AP of all images that have been added."""
        if not any(found.objects for found in self._categories.values()):
            return AveragePrecision(np.nan, np.nan, np.nan)
        with contextlib.redirect_stdout(io.StringIO()):
            precision = np.concatenate([self._precision(t) for t in range(len(_thresholds()))])
        # The precision of categories without objects is -1.
        means = [values[values > -1].mean() for values in (precision, precision[0], precision[5])]
        return AveragePrecision(*map(float, means))

    def _precision(self, threshold: int) -> np.ndarray:
        """Precision at one threshold, 1 x recalls x categories x 1 x 1.

        Computing all ten thresholds at once would need ten times the memory.
        """
        evaluation = _evaluation()
        chosen = evaluation.params
        chosen.iouThrs = chosen.iouThrs[[threshold]]
        chosen.catIds, chosen.imgIds = sorted(self._categories), [0]
        chosen.maxDets = [max(map(len, self._categories.values()))]
        evaluation.evalImgs = [self._categories[key].at(threshold) for key in chosen.catIds]
        evaluation._paramsEval = chosen  # `accumulate` reads it
        evaluation.accumulate()
        return evaluation.eval["precision"]


def _evaluation(truth: COCO | None = None, found: COCO | None = None) -> COCOeval:
    evaluation = COCOeval(truth, found, "segm")
    evaluation.params.maxDets = [MAX_DETECTIONS]
    # Only AP over objects of all sizes is needed; AP by size would quadruple the work.
    for name in ("areaRng", "areaRngLbl"):
        setattr(evaluation.params, name, getattr(evaluation.params, name)[:1])
    return evaluation


def _thresholds() -> np.ndarray:
    return _evaluation().params.iouThrs


def _matches(
    image_ids: Sequence[int],
    objects: Sequence[Mapping],
    detections: Sequence[Mapping],
    classes: int | None,
) -> list[dict]:
    """The results of COCOeval, one per image and category."""
    # pycocotools drops detections of unknown categories even if categories are ignored.
    known = max(map(itemgetter("category_id"), itertools.chain(objects, detections)))
    truth = COCO()
    truth.dataset = {
        # Image sizes are only needed for polygons; all masks are run lengths here.
        "images": [{"id": image_id, "height": 0, "width": 0} for image_id in image_ids],
        # Ids start at 1, because pycocotools treats a match with annotation 0 as no match.
        "annotations": [{**entry, "id": i} for i, entry in enumerate(objects, start=1)],
        "categories": [{"id": class_id} for class_id in range(1, (classes or known) + 1)],
    }
    truth.createIndex()
    evaluation = _evaluation(truth, _results(truth, detections))
    evaluation.params.useCats = int(classes is not None)
    evaluation.evaluate()
    return [found for found in evaluation.evalImgs if found is not None]


def _results(truth: COCO, detections: Sequence[Mapping]) -> COCO:
    if detections:
        return truth.loadRes([dict(entry) for entry in detections])
    empty = COCO()  # loadRes refuses an empty list
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
