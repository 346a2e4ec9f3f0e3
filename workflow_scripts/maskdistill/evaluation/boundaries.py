"""Boundary IoU (Cheng et al., 2021) of label maps, which compares the outlines of regions."""

import numpy as np
from scipy import ndimage

from workflow_scripts.maskdistill.files import label_maps

WIDTH = 0.02  # width of the boundary as a fraction of the image diagonal
_VOID, _OUTSIDE = -2, -3  # differ from all classes and from `UNMATCHED` (-1)


def boundary_width(size: tuple[int, int]) -> int:
    """Width of the boundary in pixels, for an image of `size` = (height, width)."""
    return max(1, round(WIDTH * float(np.hypot(*size))))


def boundary(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels that are at most `width` rows and columns away from a pixel outside their region.

    Pixels beyond the image's border are outside of every region.

    Args:
        labels: H x W integers.

    Returns:
        H x W bool: the pixels that `width` erosions by 3 x 3 pixels remove.
    """
    labels = labels.astype(np.int32, copy=False)
    window = {"size": 2 * width + 1, "mode": "constant", "cval": _OUTSIDE}
    return ndimage.maximum_filter(labels, **window) != ndimage.minimum_filter(labels, **window)


def boundary_counts(
    prediction: np.ndarray, target: np.ndarray, mapping: np.ndarray, classes: int
) -> np.ndarray:
    """Count the boundary pixels of one image by class.

    Args:
        prediction: H x W uint8 or uint16, clusters 0..C; ignored pixels count as background.
        target: H x W uint8 or uint16, classes 0..K; ignored pixels are not counted.
        mapping: C + 1 integers, cluster → class or `UNMATCHED`.
        classes: K, the number of classes without background.

    Returns:
        3 x (K + 1) int64. Row 0 counts the pixels that have the same class in both label maps and
        are in the boundaries of both, row 1 the pixels in the boundary of the ground truth, row 2
        the pixels in the boundary of the prediction. Counts of several images can be added.
    """
    width = boundary_width(target.shape)
    found = mapping.astype(np.int32)[label_maps.without_ignore(prediction)]
    # Pixels without ground truth become void in both label maps. Otherwise the outline of void
    # would count as a boundary in the ground truth, but not in the prediction.
    void = target == label_maps.ignore_value(target)
    truth, found = (np.where(void, _VOID, labels) for labels in (target.astype(np.int32), found))
    near_truth, near_found = (boundary(labels, width) & (labels >= 0) for labels in (truth, found))
    both = near_truth & near_found & (truth == found)
    return np.array(
        [
            np.bincount(labels[inside], minlength=classes + 1)
            for labels, inside in ((truth, both), (truth, near_truth), (found, near_found))
        ]
    )


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU of every class, K + 1; nan where neither label map has the class."""
    both, truth, found = counts
    union = truth + found - both
    return np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0)
