"""Against hand-made cases."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.stats import rankdata

from tests.instances import SIZE, annotation, detection, rectangle
from workflow_scripts.maskdistill.data.ground_truth import Instance
from workflow_scripts.maskdistill.evaluation import object_scores
from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED


def test_clusters_become_classes():
    found = [detection(1, (0, 0, 5, 5), 1, cluster) for cluster in (1, 2, 3)]
    classes = object_scores.as_classes(found, np.array([0, 7, UNMATCHED, 0]))
    assert [(d["category_id"], d["score"]) for d in classes] == [(7, 1)]
    assert [d["category_id"] for d in found] == [1, 2, 3]


def test_single_object_takes_the_most_confident_and_its_nearest_box():
    objects = [
        annotation(1, (0, 0, 30, 30), 1),  # large, but far from the best detection's box
        annotation(1, (30, 20, 10, 10), 2),
        annotation(1, (28, 20, 12, 12), 3, crowd=True),
        annotation(2, (0, 0, 4, 4), 1),
        annotation(2, (10, 10, 8, 8), 2),  # no detection: the largest
        annotation(3, (0, 0, 4, 4), 1),
        annotation(3, (10, 10, 8, 8), 2),  # no overlap: the largest
    ]
    detections = [
        detection(1, (0, 0, 30, 30), 0.6, 1),
        detection(1, (31, 21, 10, 10), 0.8, 2),
        detection(1, (31, 21, 9, 9), 0.8, 3),
        detection(3, (30, 30, 5, 5), 0.1, 1),
        detection(4, (30, 30, 5, 5), 0.3, 1),  # an image without objects
    ]
    chosen, best = object_scores.single_object(objects, detections)
    assert [(o["image_id"], o["category_id"], o["iscrowd"]) for o in chosen] == [
        (1, 3, 1),
        (1, 2, 0),
        (2, 2, 0),
        (3, 2, 0),
    ]
    assert [(d["image_id"], d["category_id"]) for d in best] == [(1, 2), (3, 1), (4, 1)]


def test_single_object_goes_by_boxes_not_by_masks():
    ring = rectangle(0, 0, 20, 20) & ~rectangle(2, 2, 16, 16)
    objects = object_scores.objects_of_image(
        1, [Instance(rectangle(4, 4, 12, 12), 1, False), Instance(ring, 2, False)]
    )
    # Shares no pixel with the ring, whose box it nearly fills.
    chosen, _ = object_scores.single_object(objects, [detection(1, (2, 2, 16, 16), 1.0)])
    assert [entry["category_id"] for entry in chosen] == [2]


def test_best_overlaps():
    objects = [
        annotation(1, (0, 0, 10, 10)),
        annotation(1, (20, 20, 10, 10)),
        annotation(1, (0, 20, 8, 8), crowd=True),
        annotation(3, (0, 0, 10, 10)),
    ]
    detections = [
        detection(1, (0, 0, 10, 5), 0.1),
        detection(1, (0, 0, 10, 8), 0.2),
        detection(1, (0, 20, 8, 8), 0.3),
        detection(2, (0, 0, 9, 9), 0.4),
    ]
    found = object_scores.best_overlaps(objects, detections)
    np.testing.assert_allclose(found.of_detections, [0.5, 0.8, 0, 0])
    np.testing.assert_allclose(found.of_objects, [0.8, 0, 0])  # the crowd is no object


def test_calibration():
    scores = np.array([0.05, 0.62, 0.68, 1.0])
    overlaps = np.array([0.0, 0.4, 0.6, 0.9])
    found = object_scores.calibration(scores, overlaps)
    filled = {row["low"]: row for row in found["bins"] if row["count"]}
    assert filled[0.6] == {
        "low": 0.6,
        "high": 0.7,
        "count": 2,
        "score": pytest.approx(0.65),
        "iou": pytest.approx(0.5),
        "hit_rate": 0.5,
    }
    assert sorted(filled) == [0.0, 0.6, 0.9]
    assert found["rank_correlation"] == pytest.approx(1)
    assert np.isnan(found["bins"][3]["iou"])


def test_rank_correlation_is_that_of_the_ranks():
    rng = np.random.default_rng(0)
    scores, overlaps = rng.random(50).round(1), rng.random(50)
    expected = np.corrcoef(rankdata(scores), rankdata(overlaps))[0, 1]
    found = object_scores.calibration(scores, overlaps)
    assert found["rank_correlation"] == pytest.approx(expected)
    assert np.isnan(object_scores.calibration(np.ones(5), rng.random(5))["rank_correlation"])


def test_objects_keep_their_pixels():
    mask = np.random.default_rng(0).random(SIZE) < 0.3
    (entry,) = object_scores.objects_of_image(5, [Instance(mask, 3, True)])
    np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]).astype(bool), mask)
    assert (entry["image_id"], entry["category_id"], entry["iscrowd"]) == (5, 3, 1)
    assert entry["area"] == mask.sum()
