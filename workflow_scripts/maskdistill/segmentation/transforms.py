"""Augmentation: scale, rotate, flip and crop an image together with its label map."""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX
from workflow_scripts.maskdistill.torch_tools.resnet import MEAN, STD

MEAN_COLOR = tuple(round(255 * value) for value in MEAN)


class View(NamedTuple):
    """The affine map from an image to a view, which is a random training crop."""

    scale: float  # pixels of the view per pixel of the image
    angle: float  # radians, anticlockwise
    flipped: bool
    # Position of the image's centre in the view, (x, y) in pixels from the upper left corner.
    center: tuple[float, float]


def draw_view(
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    crop_size: int,
    scale: tuple[float, float],
    rotation: float,
    flip: bool,
) -> View:
    """Draw a random view of an image.

    Args:
        size: (height, width) of the image.
        crop_size: side of the square view, in pixels.
        scale: range of the random scale factor.
        rotation: largest angle in either direction, in degrees.
        flip: whether half of the views are mirrored.
    """
    factor = generator.uniform(*scale)
    angle = math.radians(generator.uniform(-rotation, rotation))
    flipped = flip and bool(generator.random() < 0.5)
    center = []
    for side in reversed(size):
        # Random shift with which the smaller of crop and scaled image stays inside the larger.
        slack = factor * side - crop_size
        center.append(factor * side / 2 - generator.uniform(min(0.0, slack), max(0.0, slack)))
    return View(factor, angle, flipped, tuple(center))


def warp(
    image: np.ndarray, labels: np.ndarray, view: View, crop_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Resample an image (bilinear) and its labels (nearest neighbour) by one affine map.

    Args:
        image: H x W x 3, uint8.
        labels: H x W, int32.

    Returns:
        crop_size x crop_size x 3, uint8, and crop_size x crop_size, int32. Pixels outside the image
        have ImageNet's mean colour and the label `IGNORE_INDEX`.
    """
    height, width = labels.shape
    cosine, sine = math.cos(view.angle) / view.scale, math.sin(view.angle) / view.scale
    # `matrix` and `offset` map positions in the view to positions in the image.
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    if view.flipped:
        matrix[0] *= -1
    offset = np.array([width / 2, height / 2]) - matrix @ view.center
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    size, affine = (crop_size, crop_size), Image.Transform.AFFINE
    return (
        np.array(
            Image.fromarray(image).transform(
                size, affine, coefficients, Image.Resampling.BILINEAR, fillcolor=MEAN_COLOR
            )
        ),
        np.array(
            Image.fromarray(labels).transform(
                size, affine, coefficients, Image.Resampling.NEAREST, fillcolor=IGNORE_INDEX
            )
        ),
    )


def normalize(images: torch.Tensor) -> torch.Tensor:
    """ImageNet normalisation: B x H x W x 3 uint8 to B x 3 x H x W float32 (channels last)."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images - mean) / std).permute(0, 3, 1, 2)
