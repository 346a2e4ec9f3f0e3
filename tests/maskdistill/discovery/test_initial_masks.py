import numpy as np
import pytest

from workflow_scripts.maskdistill.discovery import affinity, initial_masks, patch_scores
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

GRID, PATCH, RESIZED, SIZE = (2, 3), 8, (16, 24), (30, 50)
FEATURES = {
    "image_id": 7,
    "grid_height": GRID[0],
    "grid_width": GRID[1],
    "resized_height": RESIZED[0],
    "resized_width": RESIZED[1],
    "cls_affinity": np.arange(12, dtype=np.float32),  # 2 heads
    "keys": np.arange(24, dtype=np.float16),  # 4 numbers per patch
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


@pytest.mark.parametrize(
    ("grid", "status"),
    [
        ([[1, 0, 0], [0, 0, 0]], "too small"),
        ([[1, 1, 0], [0, 0, 0]], "ok"),
        ([[1, 1, 1], [1, 0, 0]], "ok"),
        ([[1, 1, 1], [1, 1, 0]], "too large"),
        ([[1, 1, 1], [1, 1, 1]], "whole image"),
        ([[0, 0, 0], [0, 0, 0]], "empty mask"),
    ],
)
def test_a_mask_that_says_nothing_has_a_status(grid, status):
    settings = MaskSettings(least_share=0.2, largest_share=0.8)
    (row,) = initial_masks.mask_rows(FEATURES, SIZE, PATCH, lambda *_: found_masks(grid), settings)
    drawn = masks.decode(row["rle_counts"], *SIZE)
    assert row["status"] == status
    assert row["share"] == pytest.approx(drawn.mean())
    keys = FEATURES["keys"].reshape(6, 4)
    assert row["quality"] == patch_scores.separation(keys, np.array(grid, bool))
    # Without limits, as in the paper, only an empty mask and the whole image are not used.
    (row,) = initial_masks.mask_rows(FEATURES, SIZE, PATCH, lambda *_: found_masks(grid))
    assert row["status"] == (status if status in ("whole image", "empty mask") else "ok")


def test_a_pixel_belongs_to_the_mask_that_was_found_first():
    """The refinement of this test enlarges every mask to the whole image."""
    settings = MaskSettings(refinement="crf")
    image = np.zeros((*RESIZED, 3), np.uint8)
    grids = np.array([[[1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 1]]], bool)
    scores = np.where(grids, 1, -1).astype(np.float32)

    def find(keys, cls_affinity, grid):
        return [affinity.ObjectMask(g, (0, 0), 1, s) for g, s in zip(grids, scores, strict=True)]

    def grow(probabilities, image):
        assert image.flags.writeable
        return np.stack([np.zeros(image.shape[:2]), np.ones(image.shape[:2])])

    rows = list(
        initial_masks.mask_rows(FEATURES | {"image": image}, SIZE, PATCH, find, settings, grow)
    )
    assert [row["status"] for row in rows] == ["whole image", "empty mask"]


ISLANDS = [[1, 1, 0, 0, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
KEYS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float16)
LARGE = {
    "image_id": 7,
    "grid_height": 4,
    "grid_width": 5,
    "resized_height": 32,
    "resized_width": 40,
    "cls_affinity": np.zeros(40, np.float32),
    "keys": KEYS.ravel(),
    "status": "ok",
}


def split(*grids, **settings):
    """Rows of an image of 64 x 80 pixels with these masks, split into their components."""
    settings = MaskSettings(**{"split_components": True, "per_image": 4, **settings})
    return list(
        initial_masks.mask_rows(LARGE, (64, 80), 8, lambda *_: found_masks(*grids), settings)
    )


def test_every_component_is_a_mask_of_its_own_with_its_own_measures():
    rows = split(ISLANDS)
    patches = [
        [(0, 0), (0, 1), (1, 0)],
        [(0, 4), (1, 4)],
        [(2, 2)],
        [(3, 4)],
    ]
    assert [row["mask_id"] for row in rows] == [0, 1, 2, 3]
    for row, places in zip(rows, patches, strict=True):
        grid = np.zeros((4, 5), bool)
        grid[tuple(zip(*places, strict=True))] = True
        pixels = masks.grid_to_image(grid, patch_size=8, resized=(32, 40), size=(64, 80))
        np.testing.assert_array_equal(masks.decode_row(row), pixels)
        assert row["share"] == len(places) / 20
        assert row["area"] == pixels.sum()
        assert row["quality"] == patch_scores.separation(KEYS, grid)
        assert row["status"] == "ok"


def test_components_outside_the_shares_of_an_object_are_not_used():
    # The components have 3, 2, 1 and 1 of 20 patches.
    assert [row["share"] for row in split(ISLANDS, least_share=0.1)] == [0.15, 0.1]
    rows = split(ISLANDS, largest_share=0.12)
    assert [row["status"] for row in rows] == ["too large", "ok", "ok", "ok"]
    (row,) = split(ISLANDS, least_share=0.2)
    assert (row["share"], row["status"]) == (0.15, "too small")
    (row,) = split(np.zeros((4, 5)))
    assert row["status"] == "empty mask"
    (row,) = split(np.ones((4, 5)))
    assert row["status"] == "whole image"


def test_an_image_has_at_most_its_number_of_masks_those_of_the_first_search_first():
    other = [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]
    shares = [row["share"] for row in split(ISLANDS, other, per_image=9)]
    assert shares == [0.15, 0.1, 0.05, 0.05, 0.1]
    assert [row["share"] for row in split(ISLANDS, other, per_image=2)] == [0.15, 0.1]
    rows = split(ISLANDS, other, per_image=3, least_share=0.1)
    assert [row["share"] for row in rows] == [0.15, 0.1, 0.1]
    assert [row["mask_id"] for row in rows] == [0, 1, 2]


def test_a_whole_mask_stays_whole_by_default():
    settings = MaskSettings(per_image=4)
    (row,) = initial_masks.mask_rows(LARGE, (64, 80), 8, lambda *_: found_masks(ISLANDS), settings)
    assert row["share"] == 0.35


def test_what_is_not_used_is_counted():
    assert initial_masks.describe({"ok": 7}) == "masks: 7 used"
    assert (
        initial_masks.describe({"whole image": 2, "ok": 7, "empty mask": 1})
        == "masks: 7 used; not used: 1 empty mask, 2 whole image"
    )
