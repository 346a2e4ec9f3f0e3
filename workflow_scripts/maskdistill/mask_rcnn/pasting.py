"""Enlarges masks that are predicted on a small grid inside a box to masks of the image."""

import numpy as np

from workflow_scripts.maskdistill.files import masks


def paste(
    probabilities: np.ndarray,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
) -> masks.EncodedMask | None:
    """Interpolate a mask over its box, threshold it, and encode it at the image's size.

    Only the pixels under the box are interpolated.

    Args:
        probabilities: M x M, float; element (0, 0) is in the upper left corner of the box.
        box: XYXY in pixels; whole numbers are the edges between pixels.
        size: (height, width) of the image.
        threshold: smallest probability of a pixel inside the mask.

    Returns:
        The mask, or None if it has no pixel.
    """
    left, top, right, bottom = box
    rows, row_weights = _interpolation(top, bottom, size[0], len(probabilities))
    columns, column_weights = _interpolation(left, right, size[1], len(probabilities))
    inside = row_weights @ probabilities @ column_weights.T >= threshold
    if not inside.any():
        return None
    mask = np.zeros(size, dtype=np.uint8, order="F")
    mask[rows, columns] = inside
    return masks.encode(mask)


def _interpolation(start: float, stop: float, length: int, cells: int) -> tuple[slice, np.ndarray]:
    """Linear interpolation along an axis for the pixels whose centre is in the box.

    Returns:
        Slice of these pixels, and their weights (pixels x cells, float32). Pixels beyond the centre
        of the first or last cell get its value.
    """
    first = max(0, int(np.ceil(start - 0.5)))
    last = min(length, int(np.ceil(stop - 0.5)))
    centres = np.arange(first, last) + 0.5
    places = (centres - start) / max(stop - start, 1e-6) * cells - 0.5
    places = np.clip(places, 0, cells - 1)
    distance = np.abs(places[:, None] - np.arange(cells))
    weights = np.maximum(1 - distance, 0).astype(np.float32)
    return slice(first, max(first, last)), weights
