"""What the backbone sees of a masked object: the whole image without its background, or a crop."""

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill import images, masks


def masked_image(
    image: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The image and its mask at the size that the backbone sees (section 3.2).

    The background is removed after normalisation, see `remove_background`.

    Args:
        image: H x W x 3, uint8.
        mask: H x W, bool.
        size: (height, width) to resize both to.

    Returns:
        uint8 of size x 3, and bool of size.
    """
    return images.resize(image, size), masks.resize_mask(mask, size)


def box_crop(image: np.ndarray, box: tuple[float, float, float, float], side: int) -> np.ndarray:
    """The image inside a box, background included, as a square.

    Args:
        image: H x W x 3, uint8.
        box: XYWH in pixels.
        side: side of the result in pixels.

    Returns:
        side x side x 3, uint8.
    """
    x, y, width, height = box
    return np.asarray(
        Image.fromarray(image).resize(
            (side, side), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height)
        )
    )
