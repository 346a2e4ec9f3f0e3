"""The pictures of a gallery: images, overlays, and thumbnails of all stages."""

from collections.abc import Mapping

import numpy as np

from workflow_scripts.maskdistill.files import image_sizes, masks
from workflow_scripts.maskdistill.pictures import drawing, overlays

PICTURE_SIZE = 560  # longer side of a picture, in pixels
THUMBNAIL_SIZE = 200


def candidate_overlay(mask: np.ndarray, colour: np.ndarray, size: tuple[int, int]) -> bytes:
    """A candidate's mask as a layer, more transparent than label maps, as candidates may overlap.

    Args:
        mask: H x W bool, of the whole image.
        colour: RGB uint8.
        size: (height, width) of the picture.

    Returns:
        A PNG with transparency.
    """
    labels = masks.resize_mask(mask, size).astype(np.uint8)
    return drawing.transparent_png(labels, np.stack([colour, colour]), alpha=0.4)


def tiles(
    image: np.ndarray, layers: Mapping[str, np.ndarray], colours: Mapping[str, np.ndarray]
) -> bytes:
    """The image and all of its stages below each other.

    Args:
        image: H x W x 3 uint8.
        layers: stage → H' x W' label map, of any size.
        colours: stage → N x 3 uint8, label → colour; labels whose colour is black are not painted.

    Returns:
        A JPEG with one tile for the image and one for each stage.
    """
    height, width = drawing.thumbnail(image, THUMBNAIL_SIZE).shape[:2]
    # Tiles are aligned with the blocks of a JPEG, so that artefacts do not cross their borders.
    size = (max(8, round(height / 8) * 8), max(8, round(width / 8) * 8))
    small = image_sizes.resize(image, size)
    stacked = [small]
    for stage, labels in layers.items():
        shown = overlays.shown(labels, colours[stage], size)
        stacked.append(drawing.overlay(small, shown, colours[stage]))
    return drawing.jpeg(np.concatenate(stacked), quality=80, subsampling=0)
