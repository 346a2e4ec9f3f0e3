import json
from operator import itemgetter

import numpy as np
import pytest
from PIL import Image

from workflow_scripts import evaluate_instances
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, shards

SETTINGS = {
    "dataset": {
        "adapter": "voc",
        "ground_truth": True,
        "classes": ["cat", "dog"],
        "splits": {"val": "val"},
    },
    "clustering": {"clusters": 3},
    "curation": {"classes": None},
}
MATCHING = {"0": "background", "1": "dog", "2": "cat", "3": None}


def rectangle(x, y, width, height):
    mask = np.zeros((40, 50), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def root(tmp_path):
    """Three images: one with a cat, one with a cat, a dog and void pixels, and a rejected one."""
    for folder in ("SegmentationClass", "SegmentationObject"):
        (tmp_path / folder).mkdir()
    scenes = {0: [(1, (5, 5, 10, 10))], 1: [(1, (5, 5, 10, 10)), (2, (20, 5, 20, 20))]}
    for number, present in scenes.items():
        classes, objects = np.zeros((40, 50), np.uint8), np.zeros((40, 50), np.uint8)
        for i, (class_id, box) in enumerate(present, start=1):
            classes[rectangle(*box)], objects[rectangle(*box)] = class_id, i
        classes[:, 17:19] = objects[:, 17:19] = 255
        Image.fromarray(classes).save(tmp_path / "SegmentationClass" / f"{number}.png")
        Image.fromarray(objects).save(tmp_path / "SegmentationObject" / f"{number}.png")
    size = {"height": 40, "width": 50}
    images = [
        {"image_id": i, "file_name": f"JPEGImages/{i}.jpg", **size, "status": "ok"} for i in (0, 1)
    ]
    images.append({"image_id": 9, "file_name": "bad.jpg", "status": "empty file"})
    shards.write_table(tmp_path / "images.parquet", "images", images, {})
    steps = {
        step: {"matching": {"method": "hungarian", "clusters": MATCHING}}
        for step in ("initial_masks", "mask_rcnn")
    }
    metrics = {"class_names": ["background", "cat", "dog"], "clusters": 3, "steps": steps}
    metrics |= {"split": "val", "images": 7}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def call(root, found, candidates=None, settings=SETTINGS, tolerated=1):
    """Run the program and return its metrics.

    Args:
        found: (image id, mask, cluster) of each initial mask, in the order of the file.
        candidates: (image id, mask, cluster, score) of each candidate, in the order of the file.
    """
    rows, assignments, numbers = [], [], {}
    for image_id, mask, cluster in found:
        numbers[image_id] = numbers.get(image_id, -1) + 1
        key = {"image_id": image_id, "mask_id": numbers[image_id]}
        rows.append({**key, **masks.encode(mask)._asdict(), "status": "ok"})
        assignments.append({**key, "cluster": cluster, "distance": 0.0})
    rows.append({"image_id": 0, "mask_id": 7, "status": "empty mask"})
    rows.sort(key=itemgetter("image_id"))
    shards.write_table(root / "masks.parquet", "masks", rows, {})
    shards.write_table(root / "assignments.parquet", "assignments", assignments, {})
    options = [f"--root={root}", "--split=val", f"--images={root}/images.parquet"]
    options += [f"--masks={root}/masks.parquet", f"--assignments={root}/assignments.parquet"]
    if candidates is not None:
        rows = [
            {
                "image_id": image_id,
                "candidate_id": i,
                "cluster": cluster,
                "score": score,
                **masks.encode(mask)._asdict(),
            }
            for i, (image_id, mask, cluster, score) in enumerate(candidates)
        ]
        missing = {0, 1} - {row["image_id"] for row in rows}
        rows += [{"image_id": i, "height": 40, "width": 50} for i in missing]
        shards.write_table(root / "candidates.parquet", "candidates", rows, {})
        options += [f"--candidates={root}/candidates.parquet"]
    options += ["--max-rejected", "0.01", str(tolerated)]
    options += [f"--metrics={root}/metrics.json", f"--output={root}/instances.json"]
    assert evaluate_instances.main([*options, "--settings", json.dumps(settings)]) == 0
    return json.loads((root / "instances.json").read_text())


CAT, DOG = rectangle(5, 5, 10, 10), rectangle(20, 5, 20, 20)


def test_too_many_images_that_cannot_be_used(root):
    with pytest.raises(InputError, match=r"'val': 1 of 3 images .*bad\.jpg: empty file"):
        call(root, [(0, CAT, 2)], tolerated=0)
    assert not (root / "instances.json").exists()


def test_perfect_masks(root):
    result = call(root, [(0, CAT, 2), (1, CAT, 2), (1, DOG, 1)])
    assert (result["images"], result["objects"]) == (2, 3)
    assert list(result["steps"]) == ["initial_masks"]
    step = result["steps"]["initial_masks"]
    assert (step["masks"], step["masks_per_image"], step["coverage"]) == (3, 1.5, 1.0)
    assert step["best_object_iou"] == {"mean": 1.0, "median": 1.0}
    for categories in ("agnostic", "aware"):
        for setting in ("multi", "single"):
            assert step[f"class_{categories}_{setting}"] == pytest.approx(
                {"ap": 1, "ap50": 1, "ap75": 1}
            )
    assert step["matching"] == "hungarian"
    assert "calibration" not in step


def test_where_the_matching_comes_from_is_said(root):
    result = call(root, [(0, CAT, 2)])
    assert result["matched_on"] == {"split": "val", "images": 7}


def test_clusters_count_by_the_matching_of_their_step(root):
    # The cat of image 0 is in the cluster of dogs; the dog is in a cluster without a class.
    step = call(root, [(0, CAT, 1), (1, CAT, 2), (1, DOG, 3)])["steps"]["initial_masks"]
    assert step["class_agnostic_multi"]["ap50"] == pytest.approx(1)
    # One of two cats is found, so precision is 1 up to a recall of 0.5. No dog is found.
    assert step["class_aware_multi"]["ap50"] == pytest.approx(51 / 101 / 2)


def test_masks_of_merged_and_dropped_clusters(root):
    # The user has merged two of five clusters and dropped one; three classes are matched.
    settings = SETTINGS | {"curation": {"classes": [1, 2, 0, 3, 2]}}
    found = [(0, CAT, 5), (1, CAT, 2), (1, DOG, 1), (1, rectangle(0, 30, 5, 5), 3)]
    step = call(root, found, settings=settings)["steps"]["initial_masks"]
    assert step["masks"] == 3
    assert step["class_aware_multi"]["ap50"] == pytest.approx(1)


def test_the_mask_that_was_found_first_is_the_single_one(root):
    step = call(root, [(0, CAT, 2), (1, DOG, 1), (1, CAT, 3)])["steps"]["initial_masks"]
    assert step["class_aware_single"]["ap50"] == pytest.approx(1)
    step = call(root, [(0, CAT, 2), (1, CAT, 3), (1, DOG, 1)])["steps"]["initial_masks"]
    # The first mask of image 1 is now the cat, in a cluster without a class. One of two cats is
    # found.
    assert step["class_aware_single"]["ap50"] == pytest.approx(51 / 101)


def test_candidates_have_a_confidence(root):
    candidates = [
        (0, CAT, 2, 0.95),
        (1, rectangle(5, 5, 10, 4), 2, 0.35),  # has an IoU of 0.4 with the cat
        (1, rectangle(0, 30, 5, 5), 1, 0.15),
    ]
    step = call(root, [(0, CAT, 2)], candidates)["steps"]["mask_rcnn"]
    assert step["coverage"] == pytest.approx(1 / 3)
    assert step["best_object_iou"] == pytest.approx({"mean": 1.4 / 3, "median": 0.4})
    filled = [row for row in step["calibration"]["bins"] if row["count"]]
    assert [row["iou"] for row in filled] == pytest.approx([0, 0.4, 1])
    assert [row["hit_rate"] for row in filled] == [0, 0, 1]
    assert step["calibration"]["rank_correlation"] == pytest.approx(1)
    assert step["calibration"]["bins"][5]["iou"] is None


def test_no_mask_at_all(root):
    result = call(root, [], [])
    for step in result["steps"].values():
        assert step["class_agnostic_multi"] == {"ap": 0, "ap50": 0, "ap75": 0}
        assert step["class_aware_single"] == {"ap": 0, "ap50": 0, "ap75": 0}
        assert step["coverage"] == 0
        assert step["best_object_iou"] == {"mean": None, "median": None}


def test_metrics_of_another_run_are_an_error(root):
    metrics = json.loads((root / "metrics.json").read_text())
    del metrics["steps"]["mask_rcnn"]
    (root / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="lack the step 'mask_rcnn'"):
        call(root, [(0, CAT, 2)], [(0, CAT, 2, 0.5)])
    (root / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        call(root, [(0, CAT, 2)])
    assert not (root / "instances.json").exists()
