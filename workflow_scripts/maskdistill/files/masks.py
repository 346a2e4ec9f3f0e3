"""Binary masks: COCO run-length encoding, boxes, and patch grids scaled to images.

Boxes are XYWH in pixels, as in COCO; masks are H x W, bool or uint8.
"""

from collections.abc import Mapping
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

    Unlike this, `decode` may return uninitialised memory where run lengths are truncated.
    """
    return int(coco_mask.area({"size": [height, width], "counts": rle_counts}))


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
    # floor((i + 1/2) * resized_n / n / patch_size), in integers to be exact on patch borders
    rows, columns = (
        (2 * np.arange(n) + 1) * resized_n // (2 * n * patch_size)
        for n, resized_n in zip(size, resized, strict=True)
    )
    return grid[rows][:, columns]


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an H x W mask or label map to `size` = (height, width), by nearest neighbour."""
    return grid_to_image(mask, patch_size=1, resized=mask.shape, size=size)
