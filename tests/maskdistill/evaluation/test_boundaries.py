import numpy as np
import pytest
from scipy import ndimage

from workflow_scripts.maskdistill.evaluation import boundaries
from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED


def eroded_away(mask, width):
    """The boundary as its authors define it: the mask less its erosions; outside is no mask."""
    kernel = np.ones((3, 3), dtype=bool)
    return mask & ~ndimage.binary_erosion(mask, kernel, iterations=width, border_value=0)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_boundary_is_what_erosion_takes_away(width):
    rng = np.random.default_rng(width)
    labels = np.kron(rng.integers(0, 4, (4, 5)), np.ones((9, 7), dtype=int))[:, :-2]
    labels[rng.random(labels.shape) < 0.01] = 9
    found = boundaries.boundary(labels, width)
    expected = np.zeros(labels.shape, dtype=bool)
    for label in np.unique(labels):
        expected |= eroded_away(labels == label, width)
    np.testing.assert_array_equal(found, expected)


def test_width_is_a_share_of_the_diagonal():
    assert boundaries.boundary_width((300, 400)) == 10
    assert boundaries.boundary_width((8, 8)) == 1


def test_boundary_iou_of_classes_is_that_of_their_masks():
    rng = np.random.default_rng(0)
    classes, total, masks = 3, 0, {k: [0, 0] for k in range(4)}
    mapping = np.array([0, 2, UNMATCHED, 1, 1])  # two clusters are one class
    for _ in range(3):
        target = np.kron(rng.integers(0, 4, (4, 5)), np.ones((15, 15))).astype(np.uint8)
        prediction = np.roll(target, 2, axis=1)
        prediction = np.array([0, 3, 1, 2], np.uint8)[prediction]
        prediction[:20][prediction[:20] == 3] = 4
        target[30:33] = 255
        total = total + boundaries.boundary_counts(prediction, target, mapping, classes)
        width, valid, found = (
            boundaries.boundary_width(target.shape),
            target < 255,
            mapping[prediction],
        )
        for k, sums in masks.items():
            a = eroded_away((target == k) & valid, width)
            b = eroded_away((found == k) & valid, width)
            sums[0] += (a & b).sum()
            sums[1] += (a | b).sum()
    found = boundaries.boundary_iou(total)
    expected = [both / union if union else np.nan for both, union in masks.values()]
    np.testing.assert_allclose(found, expected)
    assert 0 < np.nanmin(found[:3]) < np.nanmax(found[:3]) < 1
    assert found[3] == 0  # no cluster is matched with it


def test_equal_maps_and_absent_classes():
    target = np.kron([[0, 1], [1, 0]], np.ones((10, 10))).astype(np.uint8)
    counts = boundaries.boundary_counts(target, target, np.arange(3), 2)
    np.testing.assert_array_equal(boundaries.boundary_iou(counts), [1, 1, np.nan])


def test_a_prediction_of_ignore_is_background():
    target = np.zeros((20, 20), np.uint8)
    target[5:15, 5:15] = 1
    background = boundaries.boundary_counts(np.zeros_like(target), target, np.arange(2), 1)
    ignored = boundaries.boundary_counts(np.full_like(target, 255), target, np.arange(2), 1)
    np.testing.assert_array_equal(ignored, background)
