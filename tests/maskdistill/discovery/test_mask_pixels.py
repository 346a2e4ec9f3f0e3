import numpy as np
import pytest

from workflow_scripts.maskdistill.discovery import mask_pixels
from workflow_scripts.maskdistill.discovery.affinity import ObjectMask
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.segmentation.mask_refinement import mask_refiner
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

PLACE = {"patch_size": 8, "resized": (60, 92), "size": (120, 184)}
GRID = (8, 12)  # patches of the padded image, 64 x 96 pixels


def scored(scores):
    scores = np.asarray(scores, np.float32)
    return ObjectMask(scores > 0, (0, 0), proposals=1, scores=scores)


def test_without_scores_the_grid_is_enlarged_in_blocks():
    grid = np.random.default_rng(0).random(GRID) < 0.5
    mask = ObjectMask(grid, (0, 0), proposals=1)
    expected = masks.grid_to_image(grid, **PLACE)
    for settings in (MaskSettings(), MaskSettings(enlargement="bilinear")):
        np.testing.assert_array_equal(mask_pixels.draw(mask, settings, **PLACE), expected)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_line_between_patches_is_a_line_of_pixels(axis):
    """Scores rise linearly along an axis; the mask begins exactly where they are 0."""
    centres = (np.arange(GRID[axis]) + 0.5) * PLACE["patch_size"]
    for cut in (13.3, 30.0, 41.6):
        rise = (centres - cut) / 10
        scores = np.broadcast_to(rise[:, None] if axis == 0 else rise, GRID)
        drawn = mask_pixels.draw(scored(scores), MaskSettings(enlargement="bilinear"), **PLACE)
        # A pixel of the original image is half as wide as one of the resized image.
        pixels = (np.arange(PLACE["size"][axis]) + 0.5) / 2 > cut
        expected = pixels[:, None] if axis == 0 else pixels
        np.testing.assert_array_equal(drawn, np.broadcast_to(expected, PLACE["size"]))


def test_the_refined_mask_follows_the_edge_in_the_image():
    """The object's edge is 3 pixels away from the patches' edge; only the image shows it."""
    settings = MaskSettings(refinement="crf", enlargement="bilinear", refinement_side=60)
    inside = np.zeros((60, 92), bool)
    inside[13:43, 21:67] = True
    grid = np.full(GRID, -1.0)
    grid[2:5, 3:8] = 1.0  # patches of which at least half is inside the object
    image = np.where(inside[:, :, None], np.uint8([200, 40, 40]), np.uint8([30, 90, 160]))
    place = {**PLACE, "size": (60, 92)}
    plain = mask_pixels.draw(scored(grid), MaskSettings(enlargement="bilinear"), **place)
    refined = mask_pixels.draw(
        scored(grid), settings, **place, image=image, refine=mask_refiner(settings)
    )

    def iou(mask):
        return (mask & inside).sum() / (mask | inside).sum()

    assert iou(plain) < 0.9
    assert iou(refined) > 0.99


def test_an_empty_mask_is_not_refined():
    def refine(probabilities, image):
        raise AssertionError("nothing to refine")

    settings = MaskSettings(refinement="crf", enlargement="bilinear")
    image = np.zeros((60, 92, 3), np.uint8)
    empty = scored(np.full(GRID, -1.0))
    drawn = mask_pixels.draw(empty, settings, **PLACE, image=image, refine=refine)
    assert drawn.shape == PLACE["size"]
    assert not drawn.any()


def test_the_refined_size_is_bounded_by_the_backbones():
    settings = MaskSettings(refinement_side=240)
    assert mask_pixels.refined_size((448, 600), settings) == (240, 321)
    assert mask_pixels.refined_size((128, 400), settings) == (128, 400)


PARTS = np.array(
    [
        [1, 1, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ],
    bool,
)


@pytest.mark.parametrize(
    ("least_share", "most", "sizes"),
    [
        (0, 9, [4, 3, 1, 1]),  # diagonal neighbours are connected
        (0, 2, [4, 3]),
        (3 / 35, 9, [4, 3]),
        (4 / 35, 9, [4]),
        (0.5, 9, [4]),  # none is large enough: the largest is kept
    ],
)
def test_components_are_the_largest_that_are_large_enough(least_share, most, sizes):
    found = mask_pixels.components(PARTS, least_share=least_share, most=most)
    assert [part.sum() for part in found] == sizes
    assert (np.sum(found, axis=0) <= 1).all()  # no pixel belongs to two components
    assert not (np.any(found, axis=0) & ~PARTS).any()


def test_of_equal_components_the_upper_left_comes_first():
    found = mask_pixels.components(PARTS, least_share=0, most=4)
    assert [tuple(np.argwhere(part)[0]) for part in found] == [(0, 6), (0, 0), (3, 1), (4, 6)]


def test_an_empty_mask_has_one_empty_component():
    (found,) = mask_pixels.components(np.zeros((3, 4), bool), least_share=0.1, most=3)
    assert found.shape == (3, 4)
    assert not found.any()
