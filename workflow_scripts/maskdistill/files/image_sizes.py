"""Sizes of images, and resizing them."""

import numpy as np
from PIL import Image


def resized_size(
    height: int, width: int, *, shorter_side: int, longer_side: int | None = None
) -> tuple[int, int]:
    """Size with the given shorter side and the same aspect ratio.

    Args:
        longer_side: upper bound on the longer side, so that a panorama does not have too many
            patches.

    Returns:
        (height, width) in pixels, at least 1 each.
    """
    scale = shorter_side / min(height, width)
    if longer_side is not None:
        scale = min(scale, longer_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def bounded_size(height: int, width: int, longer_side: int | None) -> tuple[int, int]:
    """Size with the same aspect ratio and at most this longer side; smaller sizes are kept.

    Args:
        longer_side: in pixels; None for no bound.

    Returns:
        (height, width) in pixels, at least 1 each.
    """
    if longer_side is None or max(height, width) <= longer_side:
        return height, width
    return resized_size(height, width, shorter_side=min(height, width), longer_side=longer_side)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an H x W x 3 uint8 image to `size` = (height, width), bicubic with antialiasing."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    # A copy, because torch warns of read-only arrays.
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """`size` = (height, width) rounded up to multiples of the patch size."""
    height, width = size
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple
