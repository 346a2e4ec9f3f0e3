import numpy as np
import pytest

from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.paper import masks_from_boxes


@pytest.mark.parametrize("rectangle", [(0, 0, 5, 4), (3, 2, 1, 1), (7, 5, 13, 9), (2, 0, 30, 24)])
def test_the_box_of_a_mask_is_that_rectangle(rectangle):
    x, y, width, height = rectangle
    mask = np.zeros((24, 32), bool)
    mask[y : y + height, x : x + width] = True
    encoded = masks.encode(mask)
    box = (encoded.x, encoded.y, encoded.box_width, encoded.box_height)
    np.testing.assert_array_equal(masks_from_boxes.box_mask(box, (24, 32)), mask)


def test_a_box_covers_the_pixels_whose_centre_it_holds():
    found = masks_from_boxes.box_mask((0.4, 0.6, 2.0, 1.0), (3, 4))
    assert np.argwhere(found).tolist() == [[1, 0], [1, 1]]


def test_a_box_beyond_the_image_ends_with_it():
    assert masks_from_boxes.box_mask((-5, -5, 100, 100), (3, 4)).all()
    assert not masks_from_boxes.box_mask((10, 10, 5, 5), (3, 4)).any()


def scene():
    """A red disc on a green ground, both a little noisy."""
    rows, columns = np.mgrid[:48, :64]
    disc = (rows - 22) ** 2 + (columns - 30) ** 2 < 13**2
    noise = np.random.default_rng(0).integers(0, 25, (48, 64, 3))
    image = np.where(disc[..., None], (200, 20, 20), (20, 180, 40)) + noise
    return image.astype(np.uint8), disc


def test_grabcut_cuts_the_object_out_of_its_box():
    image, disc = scene()
    box = (14, 6, 33, 33)
    found = masks_from_boxes.grabcut(image, box)
    assert (found & disc).sum() / (found | disc).sum() > 0.95
    whole = masks_from_boxes.box_mask(box, disc.shape)
    assert not (found & ~whole).any()
    assert (whole & disc).sum() / (whole | disc).sum() < 0.6


def test_grabcut_draws_the_same_every_time():
    image, _ = scene()
    box = (10, 3, 41, 40)
    first = masks_from_boxes.grabcut(image, box)
    masks_from_boxes.grabcut(image[::-1].copy(), (1, 1, 20, 20))
    np.testing.assert_array_equal(masks_from_boxes.grabcut(image, box), first)


@pytest.mark.parametrize("box", [(0, 0, 64, 48), (70, 0, 3, 3), (5, 5, 1, 1)])
def test_grabcut_of_boxes_that_leave_nothing_to_cut(box):
    image, _ = scene()
    found = masks_from_boxes.grabcut(image, box)
    np.testing.assert_array_equal(found, masks_from_boxes.box_mask(box, (48, 64)))
