import io

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.gallery import thumbnails

COLOURS = np.array([[0, 0, 0], [200, 10, 10], [0, 0, 0], [10, 10, 200]], np.uint8)


def decoded(data: bytes, mode: str = "RGBA") -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert(mode)).astype(int)


def test_a_candidates_overlay_has_the_size_of_the_picture():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    layer = decoded(thumbnails.candidate_overlay(mask, COLOURS[1], (20, 30)))
    np.testing.assert_array_equal(layer[..., 3] > 0, mask[::2, ::2])
    assert layer[10, 17].tolist() == [200, 10, 10, 102]


@pytest.mark.parametrize("size", [(41, 63), (3, 900), (700, 5), (1, 1)])
def test_thumbnails_stand_below_each_other_in_whole_blocks(size):
    image = np.full((*size, 3), 90, np.uint8)
    layers = {"first": np.full(size, 1), "second": np.full(size, 2)}
    data = thumbnails.tiles(image, layers, dict.fromkeys(layers, COLOURS))
    sheet = decoded(data, "RGB")
    assert sheet.shape[0] % 24 == sheet.shape[1] % 8 == 0
    plain, first, second = np.split(sheet, 3)
    assert np.abs(plain - second).max() <= 2  # black stands for background
    assert first[..., 0].mean() > plain[..., 0].mean() + 30
