"""Matrices of resizing are compared with PyTorch and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from workflow_scripts.maskdistill.segmentation.interpolation import cubic, linear, resizing

SIZES = [(7, 7), (7, 20), (5, 6), (28, 9), (40, 3), (9, 1), (1, 5)]


@pytest.mark.parametrize(("kernel", "mode"), [(linear, "bilinear"), (cubic, "bicubic")])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_equals_pytorch(kernel, mode, old, new):
    values = torch.randn(1, 1, 1, old, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values, (1, new), mode=mode, antialias=True, align_corners=False)
    torch.testing.assert_close(values @ resizing(kernel, old, new).T, expected)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_equals_pillow(old, new):
    row = np.random.default_rng(0).integers(0, 256, (1, old), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(row).resize((new, 1), Image.Resampling.BICUBIC))
    resized = torch.from_numpy(row).float() @ resizing(cubic, old, new).T
    difference = np.abs(resized.round().clamp(0, 255).numpy() - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.1


def test_enlarging_equals_bilinear_interpolation_up_to_the_borders():
    values = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values, (1, 25), mode="bilinear", align_corners=False)
    torch.testing.assert_close(values @ resizing(linear, 6, 25).T, expected)


def test_the_distance_of_new_values_may_be_given():
    """Five values at a distance of half a value show only the first two and a half values."""
    matrix = resizing(linear, 6, 5, scale=torch.tensor([0.5]))
    whole = resizing(linear, 6, 12)
    torch.testing.assert_close(matrix, whole[:5])


def test_an_unchanged_length_gives_the_identity():
    torch.testing.assert_close(resizing(cubic, 4, 4), torch.eye(4))
