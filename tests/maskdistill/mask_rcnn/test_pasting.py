import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.mask_rcnn.pasting import paste


def pasted(probabilities, box, size):
    encoded = paste(probabilities, box, size)
    return masks.decode(encoded.rle_counts, *size)


def test_a_full_mask_fills_its_box():
    result = pasted(np.ones((14, 14), np.float32), (3.0, 5.0, 9.0, 6.0), (10, 20))

    expected = np.zeros((10, 20), bool)
    expected[5:6, 3:9] = True
    np.testing.assert_array_equal(result, expected)


def test_a_pixel_belongs_to_the_box_that_holds_its_centre():
    result = pasted(np.ones((4, 4), np.float32), (2.4, 1.6, 4.4, 3.6), (8, 8))

    rows, columns = np.nonzero(result)
    assert set(rows) == {2, 3}
    assert set(columns) == {2, 3}


@pytest.mark.parametrize("box", [(-6.3, 2.2, 17.9, 30.4), (4.1, 4.9, 7.2, 8.8), (0, 0, 24, 40)])
def test_interpolation_is_that_of_torch(box):
    probabilities = np.random.default_rng(3).random((14, 14)).astype(np.float32)
    size = (24, 40)

    left, top, right, bottom = box
    y = (torch.arange(size[0]) + 0.5 - top) / (bottom - top) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - left) / (right - left) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(probabilities)[None, None],
        grid,
        padding_mode="border",
        align_corners=False,
    )[0, 0]
    in_box = ((y.abs() < 1)[:, None] & (x.abs() < 1)[None]).numpy()
    expected = (values.numpy() >= 0.5) & in_box

    np.testing.assert_array_equal(pasted(probabilities, box, size), expected)


@pytest.mark.parametrize(
    ("value", "box"),
    [(0.4, (0, 0, 8, 8)), (1.0, (9, 9, 12, 12)), (1.0, (2.6, 2, 2.9, 4)), (1.0, (-5, 0, -1, 8))],
    ids=["below the threshold", "outside", "between pixels", "left of the image"],
)
def test_no_pixel_is_no_mask(value, box):
    assert paste(np.full((14, 14), value, np.float32), box, (8, 8)) is None
