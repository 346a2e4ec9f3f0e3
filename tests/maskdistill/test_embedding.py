import numpy as np
import pytest

from workflow_scripts.maskdistill import embedding

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_image_and_mask_are_resized_alike():
    mask = np.zeros((20, 30), bool)
    mask[4:12, 6:18] = True
    image, visible = embedding.masked_image(IMAGE, mask, (40, 60))
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    np.testing.assert_array_equal(visible, mask.repeat(2, axis=0).repeat(2, axis=1))
    # The object's corner stays the object's corner.
    marked = IMAGE.copy()
    marked[mask], marked[~mask] = 255, 0
    image, visible = embedding.masked_image(marked, mask, (15, 33))
    assert visible.shape == (15, 33)
    assert ((image[..., 0] > 127) == visible).mean() > 0.97


def test_size_unchanged():
    mask = IMAGE[..., 0] > 100
    image, visible = embedding.masked_image(IMAGE, mask, (20, 30))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(visible, mask)


def test_box_crop():
    crop = embedding.box_crop(IMAGE, (5.0, 3.0, 12.0, 12.0), (12, 12))
    np.testing.assert_array_equal(crop, IMAGE[3:15, 5:17])
    assert embedding.box_crop(IMAGE, (0.0, 0.0, 30.0, 20.0), (7, 9)).shape == (7, 9, 3)


def test_a_crop_is_stretched_to_a_square():
    marked = np.zeros((20, 30, 3), np.uint8)
    marked[4:14, 5:25] = 200
    crop = embedding.box_crop(marked, (5.0, 4.0, 20.0, 10.0), (40, 40))
    # Bicubic interpolation looks two pixels beyond the border, 8 and 4 of the crop's.
    assert (crop[8:-8, 4:-4] == 200).all()
    assert crop[8:-8].min() > 90
    # One pixel in the corner
    assert (embedding.box_crop(marked, (29.0, 19.0, 1.0, 1.0), (4, 4)) == 0).all()


@pytest.mark.parametrize(
    ("side", "expected"), [(24, (24, 24)), (None, (12, 31))], ids=["square", "own size"]
)
def test_crop_size(side, expected):
    assert embedding.crop_size(12.0, 31.0, side) == expected
    assert embedding.crop_size(0.2, 0.4, None) == (1, 1)
