"""AP against pycocotools run from files on its own inputs, the rest against hand-made cases."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import rankdata

from workflow_scripts.maskdistill import instance_metrics
from workflow_scripts.maskdistill.ground_truth import Instance
from workflow_scripts.maskdistill.metrics import UNMATCHED

SIZE = (40, 50)


def rectangle(x, y, width, height):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def annotation(image_id, box, class_id=1, crowd=False):
    (entry,) = instance_metrics.objects_of_image(
        image_id, [Instance(rectangle(*box), class_id, crowd)]
    )
    return entry


def detection(image_id, box, score, cluster=1):
    entry = annotation(image_id, box, cluster)
    return {k: v for k, v in entry.items() if k not in ("iscrowd", "area")} | {"score": score}


def random_case(seed, images=12, classes=4, crowds=0.1):
    """Objects, and detections that are moved objects or none at all, with tied scores."""
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    for image_id in range(100, 100 + images):
        for _ in range(rng.integers(0, 5)):
            box = np.array([*rng.integers(0, 30, 2), *rng.integers(3, 18, 2)])
            class_id = int(rng.integers(1, classes + 1))
            objects.append(annotation(image_id, box, class_id, bool(rng.random() < crowds)))
            for _ in range(rng.integers(0, 3)):
                moved = np.maximum(box + rng.integers(-2, 3, 4), [0, 0, 1, 1])
                found = class_id if rng.random() < 0.8 else int(rng.integers(1, classes + 1))
                detections.append(detection(image_id, moved, round(rng.random(), 1), found))
    return list(range(100, 100 + images)), objects, detections


def ap_of_files(folder, ids, objects, detections, *, use_categories, classes=4):
    """What pycocotools says of the same data as a dataset file and a results file."""

    def text(entry):
        segmentation = dict(entry["segmentation"])
        segmentation["counts"] = segmentation["counts"].decode()
        return {**entry, "segmentation": segmentation}

    content = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in ids],
        "annotations": [{**text(o), "id": n} for n, o in enumerate(objects, start=1)],
        "categories": [{"id": i, "name": str(i)} for i in range(1, classes + 1)],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(list(map(text, detections))))
    truth = COCO(str(folder / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "segm")
    evaluation.params.useCats = use_categories
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return tuple(evaluation.stats[:3])


@pytest.mark.parametrize("seed", range(6))
def test_ap_is_that_of_pycocotools_on_files(tmp_path, seed):
    ids, objects, detections = random_case(seed)
    for classes in (None, 4):
        ours = instance_metrics.average_precision(ids, objects, detections, classes=classes)
        expected = ap_of_files(
            tmp_path, ids, objects, detections, use_categories=int(classes is not None)
        )
        assert tuple(ours) == pytest.approx(expected, abs=1e-12)
        assert 0 < ours.ap < ours.ap50 <= 1


def adversarial_case(name):
    """Objects and detections of images 1 and 2 (and 3, which has neither)."""
    objects = [
        annotation(1, (0, 0, 10, 10), 1),
        annotation(1, (0, 0, 10, 10), 2),
        annotation(2, (20, 5, 9, 9), 1),
    ]
    boxes = [tuple(map(int, entry["bbox"])) for entry in objects]
    right = [
        detection(entry["image_id"], box, 0.5, entry["category_id"])
        for entry, box in zip(objects, boxes, strict=True)
    ]
    if name == "more than 100 an image, the right ones last":
        others = [detection(1, (i % 40, 30, 6, 6), 0.6, 1 + i % 4) for i in range(120)]
        return objects, others + right
    if name == "copies of one detection, scores level":
        return objects, [*right, *right, *right]
    if name == "masks of no pixel":
        return objects, [detection(1, (0, 0, 0, 0), 0.9, c) for c in (1, 2)] + right
    if name == "detections where no object is":
        return objects[:1], [detection(2, (0, 0, 10, 10), 0.9), *right[:2]]
    if name == "an object within a crowd of its class":
        crowd = annotation(1, (0, 0, 30, 30), 1, crowd=True)
        return [crowd, *objects], [detection(1, (1, 1, 20, 20), 0.9), *right]
    if name == "classes that only detections have":
        return objects[:1], [detection(1, (0, 0, 10, 10), 0.9, c) for c in (4, 3, 1)]
    # An IoU at the very threshold: 0.5 and 0.75 of 10 x 20 pixels.
    tall = annotation(1, (0, 0, 10, 20), 1)
    return [tall], [detection(1, (0, 0, 10, 10), 0.9), detection(1, (0, 0, 10, 15), 0.8)]


@pytest.mark.parametrize(
    "name",
    [
        "more than 100 an image, the right ones last",
        "copies of one detection, scores level",
        "masks of no pixel",
        "detections where no object is",
        "an object within a crowd of its class",
        "classes that only detections have",
        "an IoU at the very threshold",
    ],
)
def test_ap_of_adversarial_cases_is_that_of_pycocotools(tmp_path, name):
    objects, detections = adversarial_case(name)
    for classes in (None, 4):
        ours = instance_metrics.average_precision([1, 2, 3], objects, detections, classes=classes)
        expected = ap_of_files(
            tmp_path, [1, 2, 3], objects, detections, use_categories=int(classes is not None)
        )
        assert tuple(ours) == pytest.approx(expected, abs=1e-12)


def test_ap_by_hand():
    objects = [annotation(1, (0, 0, 10, 10)), annotation(2, (0, 0, 10, 10))]
    right, wrong = detection(1, (0, 0, 10, 10), 0.9), detection(2, (20, 20, 10, 10), 0.5)

    def ap50(*found):
        return instance_metrics.average_precision([1, 2], objects, found, classes=None).ap50

    assert ap50(right, detection(2, (0, 0, 10, 10), 0.4)) == pytest.approx(1)
    # One of two found: precision 1 at the 51 of 101 recalls up to 0.5.
    assert ap50(right, wrong) == ap50(right) == pytest.approx(51 / 101)
    # The error is more confident: precision 1/2 there.
    assert ap50(right, {**wrong, "score": 0.99}) == pytest.approx(51 / 101 / 2)
    assert ap50() == 0


def test_thresholds_of_ap():
    # IoU of 0.8: found at 0.5, 0.55, …, 0.8, which are 7 of 10 thresholds.
    found = [detection(1, (0, 0, 10, 8), 1.0)]
    ap = instance_metrics.average_precision(
        [1], [annotation(1, (0, 0, 10, 10))], found, classes=None
    )
    assert ap == pytest.approx((0.7, 1, 1))


def test_a_wrong_class_counts_only_where_classes_count():
    objects, found = [annotation(1, (0, 0, 10, 10), 2)], [detection(1, (0, 0, 10, 10), 1, 9)]
    assert instance_metrics.average_precision(
        [1], objects, found, classes=None
    ).ap == pytest.approx(1)
    assert instance_metrics.average_precision([1], objects, found, classes=2).ap == 0


def test_crowds_are_neither_found_nor_missed():
    objects = [annotation(1, (0, 0, 10, 10)), annotation(1, (20, 0, 20, 20), crowd=True)]
    right = detection(1, (0, 0, 10, 10), 0.5)
    in_crowd = detection(1, (22, 2, 5, 5), 0.9)
    beside = detection(1, (0, 20, 5, 5), 0.9)

    def ap(*found):
        return instance_metrics.average_precision([1], objects, found, classes=None).ap

    assert ap(right, in_crowd) == ap(right) == pytest.approx(1)
    assert ap(right, beside) == pytest.approx(0.5)


def test_without_objects_ap_is_undefined():
    crowd = [annotation(1, (0, 0, 9, 9), crowd=True)]
    for objects in ([], crowd):
        found = instance_metrics.average_precision(
            [1], objects, [detection(1, (0, 0, 9, 9), 1)], classes=None
        )
        assert np.isnan(found).all()


def test_clusters_become_classes():
    found = [detection(1, (0, 0, 5, 5), 1, cluster) for cluster in (1, 2, 3)]
    classes = instance_metrics.as_classes(found, np.array([0, 7, UNMATCHED, 0]))
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
    chosen, best = instance_metrics.single_object(objects, detections)
    assert [(o["image_id"], o["category_id"], o["iscrowd"]) for o in chosen] == [
        (1, 3, 1),
        (1, 2, 0),
        (2, 2, 0),
        (3, 2, 0),
    ]
    assert [(d["image_id"], d["category_id"]) for d in best] == [(1, 2), (3, 1), (4, 1)]


def test_single_object_goes_by_boxes_not_by_masks():
    ring = rectangle(0, 0, 20, 20) & ~rectangle(2, 2, 16, 16)
    objects = instance_metrics.objects_of_image(
        1, [Instance(rectangle(4, 4, 12, 12), 1, False), Instance(ring, 2, False)]
    )
    # Shares no pixel with the ring, whose box it nearly fills.
    chosen, _ = instance_metrics.single_object(objects, [detection(1, (2, 2, 16, 16), 1.0)])
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
    found = instance_metrics.best_overlaps(objects, detections)
    np.testing.assert_allclose(found.of_detections, [0.5, 0.8, 0, 0])
    np.testing.assert_allclose(found.of_objects, [0.8, 0, 0])  # the crowd is no object


def test_calibration():
    scores = np.array([0.05, 0.62, 0.68, 1.0])
    overlaps = np.array([0.0, 0.4, 0.6, 0.9])
    found = instance_metrics.calibration(scores, overlaps)
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
    found = instance_metrics.calibration(scores, overlaps)
    assert found["rank_correlation"] == pytest.approx(expected)
    assert np.isnan(instance_metrics.calibration(np.ones(5), rng.random(5))["rank_correlation"])


def test_objects_keep_their_pixels():
    mask = np.random.default_rng(0).random(SIZE) < 0.3
    (entry,) = instance_metrics.objects_of_image(5, [Instance(mask, 3, True)])
    np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]).astype(bool), mask)
    assert (entry["image_id"], entry["category_id"], entry["iscrowd"]) == (5, 3, 1)
    assert entry["area"] == mask.sum()
