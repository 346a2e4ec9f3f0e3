import base64
import io

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.pictures import drawing


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pictures_are_scaled_down_and_never_up():
    for height, width in [(100, 37), (37, 100), (20, 30), (500, 1)]:
        image = drawing.thumbnail(noise(height, width), 50)
        assert max(image.shape) == min(50, max(height, width))
    assert drawing.thumbnail(noise(1000, 2000), 560).shape == (280, 560, 3)


def test_contours_lie_on_both_sides_of_a_border():
    labels = np.zeros((5, 6), np.uint8)
    labels[1:4, 2:5] = 7
    expected = np.zeros((5, 6), bool)
    for y, x in np.ndindex(5, 6):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [labels[p] for p in around if 0 <= p[0] < 5 and 0 <= p[1] < 6]
        expected[y, x] = any(value != labels[y, x] for value in inside)
    np.testing.assert_array_equal(drawing.contours(labels), expected)


def test_overlay_paints_regions_in_their_colour_and_nothing_else():
    image = np.full((20, 20, 3), 100, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 2
    colours = np.array([[0, 0, 0], [0, 255, 0], [200, 0, 0]], np.uint8)
    result = drawing.overlay(image, labels, colours, alpha=0.5)
    assert result.dtype == np.uint8
    assert (result[labels == 0] == 100).all()
    assert result[10, 10].tolist() == [150, 50, 50]
    assert result[5, 10].min() > 150  # the contour
    assert (image == 100).all()  # the argument is left alone


def test_masked_crop_keeps_the_object_and_fades_the_rest():
    image = np.full((60, 80, 3), 250, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[20:40, 0:10] = True  # at the image's border, so that the square reaches beyond it
    crop = drawing.masked_crop(image, mask, 48, margin=0.0)
    assert crop.shape == (48, 48, 3)
    assert crop[24, 24].tolist() == [250] * 3
    assert crop[24, 2].tolist() == [drawing.FADED_TO] * 3  # beyond the image
    assert abs(int(crop[24, 44, 0]) - (0.18 * 250 + 0.82 * drawing.FADED_TO)) < 2


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 3)])
@pytest.mark.parametrize("filled", [True, False])
def test_masked_crop_takes_any_mask(size, filled):
    crop = drawing.masked_crop(noise(*size), np.full(size, filled), 32)
    assert crop.shape == (32, 32, 3)


def test_data_uri_is_a_jpeg_of_the_image():
    image = np.full((30, 40, 3), (10, 120, 230), np.uint8)
    uri = drawing.data_uri(image)
    prefix = "data:image/jpeg;base64,"
    assert uri.startswith(prefix)
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix)))) as decoded:
        assert decoded.format == "JPEG"
        np.testing.assert_allclose(np.asarray(decoded), image, atol=4)


def test_css_colour():
    assert drawing.css_colour(np.array([128, 0, 255], np.uint8)) == "#8000ff"


def test_a_transparent_layer_shows_regions_and_contours():
    labels = np.zeros((20, 24), np.uint16)
    labels[4:16, 4:10] = 2
    labels[4:16, 10:20] = 700
    colours = np.zeros((701, 3), np.uint8)
    colours[2], colours[700] = (200, 0, 0), (0, 0, 0)
    with Image.open(io.BytesIO(drawing.transparent_png(labels, colours, alpha=0.5))) as image:
        assert image.mode == "P"
        pixels = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., 3] > 0, labels > 0)
    np.testing.assert_array_equal(pixels[8, 7], (200, 0, 0, 128))
    np.testing.assert_array_equal(pixels[8, 15], (0, 0, 0, 128))  # black is a colour like others
    np.testing.assert_array_equal(pixels[4, 6], (238, 178, 178, 255))
    assert pixels[8, 9, 3] == pixels[8, 10, 3] == 255  # the border between two regions


def test_a_transparent_layer_of_many_labels_has_room_in_its_palette():
    labels = np.arange(1, 401).reshape(20, 20)
    colours = np.array([[i % 250, 7, 9] for i in range(401)], np.uint8)
    with Image.open(io.BytesIO(drawing.transparent_png(labels, colours))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., :3], colours[labels])
    assert (pixels[..., 3] == 153).all()


def test_pictures_of_several_strips_are_those_of_one(monkeypatch):
    image = noise(40, 30)
    labels = np.random.default_rng(1).integers(0, 3, (40, 30), dtype=np.uint8)
    colours = np.array([[0, 0, 0], [0, 255, 0], [200, 0, 0]], np.uint8)

    def draw():
        mask = np.zeros((40, 30), bool)
        mask[:33, 4:] = labels[:33, 4:] > 0
        return drawing.overlay(image, labels, colours), drawing.masked_crop(image, mask, 25)

    whole = draw()
    monkeypatch.setattr(drawing, "_STRIP", 100)
    for one, other in zip(whole, draw(), strict=True):
        np.testing.assert_array_equal(one, other)
