import math

import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.segmentation import transforms
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX
from workflow_scripts.maskdistill.segmentation.transforms import View


def picture(height=40, width=60, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, rng.integers(0, 5, (height, width)).astype(np.int32)


def ramps(height=80, width=100):
    """An image whose red and green values are twice the column and the row of each pixel."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([2 * x, 2 * y, 0 * x], axis=-1).astype(np.uint8)
    return image, (x // 10 + 10 * (y // 10)).astype(np.int32)


def test_a_view_at_scale_1_of_the_image_is_the_image():
    image, labels = picture(40, 40)
    seen, classes = transforms.warp(image, labels, View(1.0, 0.0, False, (20, 20)), 40)
    np.testing.assert_array_equal(seen, image)
    np.testing.assert_array_equal(classes, labels)


def test_a_mirrored_view_is_exactly_the_mirrored_image():
    image, labels = picture(40, 40)
    seen, classes = transforms.warp(image, labels, View(1.0, 0.0, True, (20, 20)), 40)
    np.testing.assert_array_equal(seen, image[:, ::-1])
    np.testing.assert_array_equal(classes, labels[:, ::-1])


def test_a_quarter_turn_is_exactly_numpys_rot90():
    image, labels = picture(40, 40)
    seen, classes = transforms.warp(image, labels, View(1.0, math.pi / 2, False, (20, 20)), 40)
    # The angle is rounded, so that colours may differ by 1.
    assert abs(seen.astype(int) - np.rot90(image)).max() <= 1
    np.testing.assert_array_equal(classes, np.rot90(labels))


def test_a_crop_is_a_slice():
    image, labels = picture(40, 60)
    # The image's centre (30, 20) is at (20, 12) in the view, so that the view begins at (10, 8).
    seen, classes = transforms.warp(image, labels, View(1.0, 0.0, False, (20, 12)), 32)
    np.testing.assert_array_equal(seen, image[8:40, 10:42])
    np.testing.assert_array_equal(classes, labels[8:40, 10:42])


def test_twice_the_size_repeats_every_label_twice():
    _, labels = picture(20, 20)
    image = np.zeros((20, 20, 3), np.uint8)
    _, classes = transforms.warp(image, labels, View(2.0, 0.0, False, (20, 20)), 40)
    np.testing.assert_array_equal(classes, labels.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("flipped", [False, True])
def test_image_and_labels_are_seen_from_the_same_place(flipped):
    image, labels = ramps()
    view = View(1.3, math.radians(8), flipped, (60, 50))
    seen, classes = transforms.warp(image, labels, view, 112)
    inside = classes != IGNORE_INDEX
    x, y = seen[..., 0] / 2, seen[..., 1] / 2
    # Labels form squares of 10 x 10 pixels. Pixels near the edge of a square are not compared,
    # because rounding decides to which square they belong.
    clear = inside & (abs(x % 10 - 5) < 3.5) & (abs(y % 10 - 5) < 3.5)
    assert clear.sum() > 1000
    np.testing.assert_array_equal(classes[clear], (x // 10 + 10 * (y // 10)).astype(int)[clear])


def test_outside_of_the_image_is_ignored_and_mean_coloured():
    image, labels = np.full((20, 30, 3), 255, np.uint8), np.ones((20, 30), np.int32)
    seen, classes = transforms.warp(image, labels, View(1.0, 0.0, False, (20, 14)), 64)
    inside = np.zeros((64, 64), bool)
    inside[4:24, 5:35] = True
    np.testing.assert_array_equal(classes == 1, inside)
    np.testing.assert_array_equal(classes == IGNORE_INDEX, ~inside)
    assert (seen[~inside] == np.round(255 * np.array(transforms.MEAN))).all()
    # The network's input is 0 in the padding, up to the rounding to 8 bits.
    normalized = transforms.normalize(torch.from_numpy(seen)[None])[0]
    assert normalized[:, ~torch.from_numpy(inside)].abs().max() < 0.01


def test_views_stay_within_their_ranges_and_are_not_all_alike():
    rng = np.random.default_rng(0)
    options = {"crop_size": 50, "scale": (0.5, 2.0), "rotation": 10.0, "flip": True}
    views = [transforms.draw_view((40, 120), rng, **options) for _ in range(500)]
    scales = np.array([view.scale for view in views])
    degrees = np.degrees([view.angle for view in views])
    assert 0.5 <= scales.min() < 0.55
    assert 1.9 < scales.max() <= 2.0
    assert -10 <= degrees.min() < -9
    assert 9 < degrees.max() <= 10
    assert 0.4 < np.mean([view.flipped for view in views]) < 0.6
    for view in views:
        for center, side in zip(view.center, (120, 40), strict=True):
            first, last = center - view.scale * side / 2, center + view.scale * side / 2
            if view.scale * side >= 50:  # the image is large enough to need no padding
                assert first <= 1e-9
                assert last >= 50 - 1e-9
            else:
                assert first >= -1e-9
                assert last <= 50 + 1e-9


def test_without_flip_and_ranges_there_is_no_randomness_but_the_place():
    rng = np.random.default_rng(0)
    options = {"crop_size": 40, "scale": (1.0, 1.0), "rotation": 0.0, "flip": False}
    for _ in range(20):
        view = transforms.draw_view((40, 40), rng, **options)
        assert view == View(1.0, 0.0, False, (20.0, 20.0))


def test_normalisation_is_imagenets():
    image = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    found = transforms.normalize(image).flatten()
    expected = [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
