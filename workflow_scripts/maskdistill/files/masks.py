"""Binary masks: COCO run-length encoding, boxes, and patch grids scaled to images.

Boxes are XYWH in pixels, as in COCO; masks are H x W, bool or uint8.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

# Status of a mask that covers all of its image, and therefore says nothing about an object.
WHOLE_IMAGE = "whole image"


class EncodedMask(NamedTuple):
    """A mask as the columns of a Parquet row."""

    height: int
    width: int
    rle_counts: bytes  # COCO's compressed counts
    x: float
    y: float
    box_width: float
    box_height: float
    area: float  # pixels


def encode(mask: np.ndarray) -> EncodedMask:
    """Encode an H x W mask (bool or uint8, non-zero is inside)."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y, box_width, box_height = coco_mask.toBbox(rle).tolist()
    height, width = mask.shape
    area = float(coco_mask.area(rle))
    return EncodedMask(height, width, rle["counts"], x, y, box_width, box_height, area)


def decode(rle_counts: bytes, height: int, width: int) -> np.ndarray:
    """Decode COCO's compressed counts to an H x W bool array."""
    return coco_mask.decode({"size": [height, width], "counts": rle_counts}).astype(bool)


def decode_row(row: Mapping) -> np.ndarray:
    """Decode the mask of a Parquet row, with its `rle_counts`, `height` and `width`."""
    return decode(row["rle_counts"], row["height"], row["width"])


def area(rle_counts: bytes, height: int, width: int) -> int:
    """Pixels inside a mask, computed from its run lengths.

    Unlike this function, `decode` may return uninitialised memory if run lengths are truncated.
    """
    return int(coco_mask.area({"size": [height, width], "counts": rle_counts}))


def iou(first: Sequence[Mapping], second: Sequence[Mapping]) -> np.ndarray:
    """IoU of every mask in `first` with every mask in `second`, computed from run lengths.

    Args:
        first, second: Parquet rows with `rle_counts`, `height` and `width`, all of one image.

    Returns:
        len(first) x len(second), float64.
    """
    if not (first and second):
        return np.zeros((len(first), len(second)))
    one, other = (
        [{"size": [row["height"], row["width"]], "counts": row["rle_counts"]} for row in rows]
        for rows in (first, second)
    )
    return coco_mask.iou(one, other, [0] * len(other))


def grid_to_image(
    grid: np.ndarray, *, patch_size: int, resized: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Scale a patch grid to the image it came from, by nearest neighbour.

    Args:
        grid: rows x columns; covers the resized image and the padding to its right and bottom.
        patch_size: side of a patch in pixels of the resized image.
        resized: (height, width) that the backbone saw, without padding.
        size: (height, width) of the original image.

    Returns:
        Array of `size` and of the grid's dtype.
    """
    rows, columns = _patches_of_pixels(patch_size, resized, size)
    return grid[rows][:, columns]


def image_to_grid(
    mask: np.ndarray, grid: tuple[int, int], *, patch_size: int, resized: tuple[int, int]
) -> np.ndarray:
    """Convert a mask of the image to patches: those with at least half of their pixels in it.

    If `grid_to_image` made the mask, the result is the grid that it was made from, except that
    patches which consist only of padding are False.

    Args:
        mask: H x W, bool.
        grid: (rows, columns) of the result.
        patch_size, resized: see `grid_to_image`.

    Returns:
        Bool array of rows x columns.
    """
    counts, pixels = mask, 1
    places = _patches_of_pixels(patch_size, resized, mask.shape)
    for axis, of_pixels in enumerate(places):
        present, first, lengths = np.unique(of_pixels, return_index=True, return_counts=True)
        places[axis] = present
        counts = np.add.reduceat(counts, first, axis=axis, dtype=np.int64)
        pixels = np.multiply.outer(pixels, lengths)
    result = np.zeros(grid, bool)
    result[np.ix_(*places)] = 2 * counts >= pixels
    return result


def _patches_of_pixels(
    patch_size: int, resized: tuple[int, int], size: tuple[int, int]
) -> list[np.ndarray]:
    """For every row of pixels, the row of patches that contains it; then the same for columns."""
    # floor((i + 1/2) * resized_n / n / patch_size), in integers to be exact on patch borders
    return [
        (2 * np.arange(n) + 1) * resized_n // (2 * n * patch_size)
        for n, resized_n in zip(size, resized, strict=True)
    ]


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an H x W mask or label map to `size` = (height, width), by nearest neighbour."""
    return grid_to_image(mask, patch_size=1, resized=mask.shape, size=size)
