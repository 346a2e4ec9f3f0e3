"""AP of images that come in parts, against pycocotools run from files on all of them at once."""

import gc
import json
import tracemalloc

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.instances import SIZE, annotation, detection
from workflow_scripts.maskdistill.evaluation import mask_ap
from workflow_scripts.maskdistill.evaluation.mask_ap import MaskAP


def average_precision(ids, objects, detections, *, classes, part=2):
    """`part` images at a time, the last ones first."""
    ap = MaskAP(classes)
    ids = ids[::-1]
    for start in range(0, len(ids), part):
        some = ids[start : start + part]
        present, found = (
            [e for e in entries if e["image_id"] in some] for entries in (objects, detections)
        )
        ap.add(some, present, found)
    return ap.result()


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
        ours = average_precision(ids, objects, detections, classes=classes)
        expected = ap_of_files(
            tmp_path, ids, objects, detections, use_categories=int(classes is not None)
        )
        assert tuple(ours) == pytest.approx(expected, abs=1e-12)
        assert 0 < ours.ap < ours.ap50 <= 1


def test_parts_of_any_size_give_the_same():
    ids, objects, detections = random_case(7)
    for classes in (None, 4):
        whole = average_precision(ids, objects, detections, classes=classes, part=len(ids))
        for part in (1, 5):
            assert average_precision(ids, objects, detections, classes=classes, part=part) == whole


def test_a_detection_leaves_few_bytes():
    # Only what these files allocate counts; other threads of the test process allocate too.
    files = [mask_ap.__file__, "*/pycocotools/*", __file__]

    def kept(copies):
        ap = MaskAP(None)
        found = [detection(1, (0, 0, 10, 10), 0.5)] * 100
        tracemalloc.start()
        for image_id in range(copies):
            entries = [{**entry, "image_id": image_id} for entry in found]
            ap.add([image_id], [annotation(image_id, (0, 0, 10, 10))], entries)
        del entries
        gc.collect()
        snapshot = tracemalloc.take_snapshot()
        tracemalloc.stop()
        allocated = snapshot.filter_traces([tracemalloc.Filter(True, name) for name in files])
        return sum(trace.size for trace in allocated.traces)

    kept(1)  # what pycocotools loads once
    assert (kept(60) - kept(10)) / 5000 < 16


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
        ours = average_precision([1, 2, 3], objects, detections, classes=classes)
        expected = ap_of_files(
            tmp_path, [1, 2, 3], objects, detections, use_categories=int(classes is not None)
        )
        assert tuple(ours) == pytest.approx(expected, abs=1e-12)


def test_ap_by_hand():
    objects = [annotation(1, (0, 0, 10, 10)), annotation(2, (0, 0, 10, 10))]
    right, wrong = detection(1, (0, 0, 10, 10), 0.9), detection(2, (20, 20, 10, 10), 0.5)

    def ap50(*found):
        return average_precision([1, 2], objects, found, classes=None).ap50

    assert ap50(right, detection(2, (0, 0, 10, 10), 0.4)) == pytest.approx(1)
    # One of two found: precision 1 at the 51 of 101 recalls up to 0.5.
    assert ap50(right, wrong) == ap50(right) == pytest.approx(51 / 101)
    # The error is more confident: precision 1/2 there.
    assert ap50(right, {**wrong, "score": 0.99}) == pytest.approx(51 / 101 / 2)
    assert ap50() == 0


def test_thresholds_of_ap():
    # IoU of 0.8: found at 0.5, 0.55, …, 0.8, which are 7 of 10 thresholds.
    found = [detection(1, (0, 0, 10, 8), 1.0)]
    ap = average_precision([1], [annotation(1, (0, 0, 10, 10))], found, classes=None)
    assert ap == pytest.approx((0.7, 1, 1))


def test_a_wrong_class_counts_only_where_classes_count():
    objects, found = [annotation(1, (0, 0, 10, 10), 2)], [detection(1, (0, 0, 10, 10), 1, 9)]
    assert average_precision([1], objects, found, classes=None).ap == pytest.approx(1)
    assert average_precision([1], objects, found, classes=2).ap == 0


def test_crowds_are_neither_found_nor_missed():
    objects = [annotation(1, (0, 0, 10, 10)), annotation(1, (20, 0, 20, 20), crowd=True)]
    right = detection(1, (0, 0, 10, 10), 0.5)
    in_crowd = detection(1, (22, 2, 5, 5), 0.9)
    beside = detection(1, (0, 20, 5, 5), 0.9)

    def ap(*found):
        return average_precision([1], objects, found, classes=None).ap

    assert ap(right, in_crowd) == ap(right) == pytest.approx(1)
    assert ap(right, beside) == pytest.approx(0.5)


def test_without_objects_ap_is_undefined():
    crowd = [annotation(1, (0, 0, 9, 9), crowd=True)]
    for objects in ([], crowd):
        found = average_precision([1], objects, [detection(1, (0, 0, 9, 9), 1)], classes=None)
        assert np.isnan(found).all()
