import pickle

import numpy as np
import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import detections
from workflow_scripts.maskdistill.files import masks, shards


@pytest.mark.parametrize("images", [(0, 1, 0), (0, 9)])
def test_masks_of_an_image_that_lie_apart_or_are_of_no_image_are_an_error(tmp_path, images):
    rows = [
        {
            "image_id": image_id,
            "mask_id": i,
            **masks.encode(np.ones((4, 5), bool))._asdict(),
            "status": "ok",
        }
        for i, image_id in enumerate(images)
    ]
    assignments = [
        {"image_id": row["image_id"], "mask_id": row["mask_id"], "cluster": 1} for row in rows
    ]
    shards.write_table(tmp_path / "masks.parquet", "masks", rows, {})
    shards.write_table(tmp_path / "assignments.parquet", "assignments", assignments, {})
    found = detections.masks_by_image(
        [tmp_path / "masks.parquet"], [tmp_path / "assignments.parquet"]
    )
    objects = {0: (0, pickle.dumps([])), 1: (0, pickle.dumps([]))}
    with pytest.raises(InputError, match=f"image {images[-1]}: its masks"):
        list(detections.batches_of_images(objects, found))


def test_parts_hold_every_image_once_and_nothing_of_others():
    objects = {i: (1, pickle.dumps([{"image_id": i}])) for i in range(50)}
    found = [(i, [{"image_id": i}] * (i % 3)) for i in reversed(range(40))]
    parts = list(detections.batches_of_images(objects, found))
    assert all(len(ids) <= detections.BATCH for ids, *_ in parts)
    assert [i for ids, *_ in parts for i in ids] == [*reversed(range(40)), *range(40, 50)]
    for ids, present, found_here in parts:
        assert [entry["image_id"] for entry in present] == ids
        assert [e["image_id"] for e in found_here] == [
            i for i in ids if i < 40 for _ in range(i % 3)
        ]


def test_the_patches_that_voted_are_counted(tmp_path):
    rows = [{"image_id": i, "proposals": n, "status": "ok"} for i, n in ((0, 10), (0, 4), (1, 7))]
    rows.append({"image_id": 2, "proposals": 99, "status": "empty mask"})
    shards.write_table(tmp_path / "0", "masks", rows[:2], {})
    shards.write_table(tmp_path / "1", "masks", rows[2:], {})
    found = detections.proposals_per_mask([tmp_path / "0", tmp_path / "1"])
    assert found == pytest.approx(7)
