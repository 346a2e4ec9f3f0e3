import numpy as np

from workflow_scripts.maskdistill.discovery import affinity, initial_masks
from workflow_scripts.maskdistill.files import masks

GRID, PATCH, RESIZED, SIZE = (2, 3), 8, (16, 24), (30, 50)
FEATURES = {
    "image_id": 7,
    "grid_height": GRID[0],
    "grid_width": GRID[1],
    "resized_height": RESIZED[0],
    "resized_width": RESIZED[1],
    "cls_affinity": np.arange(12, dtype=np.float32),  # 2 heads
    "keys": np.arange(24, dtype=np.float16),  # 4 numbers a patch
    "status": "ok",
}


def found_masks(*grids):
    return [affinity.ObjectMask(np.array(g, bool), (1, 2), proposals=4) for g in grids]


def test_the_finder_gets_arrays_and_its_masks_become_rows():
    left, right = [[1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 1]]

    def find(keys, cls_affinity, grid):
        np.testing.assert_array_equal(keys, FEATURES["keys"].reshape(6, 4))
        np.testing.assert_array_equal(cls_affinity, FEATURES["cls_affinity"].reshape(2, 6))
        assert grid == GRID
        return found_masks(left, right)

    rows = list(initial_masks.mask_rows(FEATURES, SIZE, PATCH, find))
    assert [(row["image_id"], row["mask_id"], row["status"]) for row in rows] == [
        (7, 0, "ok"),
        (7, 1, "ok"),
    ]
    for row, grid in zip(rows, (left, right), strict=True):
        expected = masks.grid_to_image(
            np.array(grid, bool), patch_size=PATCH, resized=RESIZED, size=SIZE
        )
        np.testing.assert_array_equal(masks.decode(row["rle_counts"], *SIZE), expected)
        assert (row["source_row"], row["source_col"], row["proposals"]) == (1, 2, 4)


def test_a_mask_that_vanishes_and_an_image_without_features_keep_a_row():
    def find(keys, cls_affinity, grid):
        return found_masks(np.zeros(GRID))

    (row,) = initial_masks.mask_rows(FEATURES, SIZE, PATCH, find)
    assert (row["mask_id"], row["status"], row["area"]) == (0, "empty mask", 0)
    rejected = {"image_id": 8, "status": "missing file"}
    (row,) = initial_masks.mask_rows(rejected, SIZE, PATCH, find)
    assert row == {"image_id": 8, "height": 30, "width": 50, "mask_id": 0} | rejected
