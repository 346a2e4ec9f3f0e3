import numpy as np
import pytest
from scipy import ndimage

from workflow_scripts.maskdistill.demo import descriptors

GRID = np.mgrid[-40:41, -40:41].astype(float)
DISC = np.hypot(*GRID) < 30
SQUARE = np.abs(GRID).max(axis=0) < 25


def stripes(period: float, angle: float) -> np.ndarray:
    across = GRID[0] * np.cos(angle) + GRID[1] * np.sin(angle)
    return np.sin(2 * np.pi * across / period) * 50


@pytest.mark.parametrize("angle", [0.5, 0.9, 1.3])
def test_a_turn_changes_little(angle):
    reference = descriptors.describe(stripes(9, 0.15), DISC)
    turned = descriptors.describe(stripes(9, angle), DISC)
    other = descriptors.describe(stripes(20, 0.15), DISC)
    for kind in (0, 1):  # patterns and autocorrelation see the texture
        near = np.abs(reference[kind] - turned[kind]).sum()
        assert near < 0.7 * np.abs(reference[kind] - other[kind]).sum()


def test_brightness_and_contrast_change_nothing():
    first = descriptors.describe(stripes(9, 0.2), DISC)
    second = descriptors.describe(3 * stripes(9, 0.2) + 70, DISC)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_outline_has_as_many_lobes_as_the_shape():
    assert descriptors.outline(SQUARE).argmax() == 4 - 1
    turned = ndimage.rotate(SQUARE.astype(float), 30, reshape=False, order=1) > 0.5
    np.testing.assert_allclose(descriptors.outline(turned), descriptors.outline(SQUARE), atol=0.03)
    assert descriptors.outline(DISC).max() < 0.25 * descriptors.outline(SQUARE).max()


def test_patterns_are_shares():
    patterns = descriptors.local_binary_patterns(stripes(9, 0.2), DISC, 1.5)
    assert patterns.shape == (10,)
    assert patterns.sum() == pytest.approx(1)
