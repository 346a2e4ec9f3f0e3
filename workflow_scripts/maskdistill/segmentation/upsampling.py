"""Upsampling of the class scores of a network, and the best class of every pixel."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear upsampling of B x classes x h x w to `size` = (height, width), in float32."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def upsample_image(
    logits: torch.Tensor,
    *,
    seen: tuple[int, int],
    padded: tuple[int, int],
    size: tuple[int, int],
) -> torch.Tensor:
    """Bilinear resizing of the logits of an image without those of its padding, in float32.

    Args:
        logits: B x classes x h x w, of the padded image.
        seen: (height, width) of the image as the model saw it, without padding.
        padded: (height, width) with padding on the right and at the bottom.
        size: (height, width) of the result, of any resolution.

    Returns:
        B x classes x height x width.
    """
    height, width = size
    if size == seen:
        return upsample(logits, padded)[..., :height, :width]
    factors = [
        whole / cells * new / old
        for whole, cells, new, old in zip(padded, logits.shape[2:], size, seen, strict=True)
    ]
    # The result has as many rows and columns as fit, rounded down, but for rounding errors.
    factors = [factor * (1 + 1e-9) for factor in factors]
    resized = F.interpolate(
        logits.float(), scale_factor=factors, mode="bilinear", antialias=True, align_corners=False
    )
    return resized[..., :height, :width]


def largest_class(
    classes: int,
    size: tuple[int, int],
    scores: Callable[[slice], torch.Tensor],
    *,
    most_values: int = 2**25,
) -> np.ndarray:
    """The class with the largest score at every pixel; on a CPU, the first of equal scores.

    Args:
        classes: number of classes.
        size: (height, width) of the scores.
        scores: function from a slice of the classes to their scores, n x H x W.
        most_values: the most scores in one call of `scores`, which is for at least one class.

    Returns:
        H x W, uint16.
    """
    count = max(1, most_values // math.prod(size))
    best = labels = None
    for first in range(0, classes, count):
        values, found = scores(slice(first, first + count)).max(dim=0)
        # Numbers above 32,767 become negative; the view as uint16 below restores them.
        found = (found + first).to(torch.int16)
        if best is None:
            best, labels = values, found
        else:
            larger = values > best
            best, labels = torch.where(larger, values, best), torch.where(larger, found, labels)
    return labels.cpu().numpy().view(np.uint16)


def enlarged_classes(
    labels: np.ndarray, size: tuple[int, int], scores: Callable[[list[int]], torch.Tensor]
) -> np.ndarray:
    """The class with the largest score at every pixel, after resizing the scores.

    Only classes that have the largest score somewhere before resizing are resized. Most classes
    are absent from an image, and time and memory at a photograph's size grow with their number.

    Args:
        labels: the class with the largest score before, h x w.
        size: (height, width) of the result.
        scores: some of the classes → their scores, n x h x w.

    Returns:
        H x W, uint16.
    """
    present = np.unique(labels)

    def resized(some: slice) -> torch.Tensor:
        return upsample(scores(present[some].tolist())[None], size)[0]

    return present.astype(np.uint16)[largest_class(len(present), size, resized)]
