"""Masks at the image's resolution, from masks and scores on the patch grid."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from workflow_scripts.maskdistill.discovery.affinity import ObjectMask
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.files.image_sizes import resized_size
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

# Function (probabilities 2 x H x W of background and object, image H x W x 3 uint8) → refined
# probabilities.
Refiner = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The CRF that refines masks. Its widths are in pixels at `masks.refinement_side`.
CRF = CRFSettings(
    iterations=5,
    gaussian_weight=3,
    gaussian_sigma=1,
    bilateral_weight=4,
    bilateral_sigma_xy=33,
    bilateral_sigma_rgb=8,
)
# Factor from a score in `ObjectMask.scores` to the log-odds of a pixel.
_LOG_ODDS = 2.0


def draw(
    mask: ObjectMask,
    settings: MaskSettings,
    *,
    patch_size: int,
    resized: tuple[int, int],
    size: tuple[int, int],
    image: np.ndarray | None = None,
    refine: Refiner | None = None,
) -> np.ndarray:
    """A mask on the patch grid as a mask of the original image.

    Args:
        patch_size: side of a patch in pixels of the resized image.
        resized: (height, width) of the resized image, the backbone's input, without padding.
        size: (height, width) of the original image.
        image: for `settings.refinement`, the image at `refined_size(resized, settings)`.
        refine: for `settings.refinement`, the function that refines probabilities.

    Returns:
        H x W, bool, of `size`.
    """
    if mask.scores is None:
        return masks.grid_to_image(mask.grid, patch_size=patch_size, resized=resized, size=size)

    def enlarged(size: tuple[int, int]) -> np.ndarray:
        how = _interpolated if settings.enlargement == "bilinear" else masks.grid_to_image
        return how(mask.scores, patch_size=patch_size, resized=resized, size=size)

    if settings.refinement == "none" or not mask.grid.any():
        return enlarged(size) > 0
    object_ = 1 / (1 + np.exp(-_LOG_ODDS * enlarged(image.shape[:2])))
    refined = refine(np.stack([1 - object_, object_]), image)[1]
    return _interpolated(refined, patch_size=1, resized=refined.shape, size=size) > 0.5


def components(mask: np.ndarray, *, least_share: float, most: int) -> list[np.ndarray]:
    """The connected components of a mask, the largest first.

    Args:
        mask: H x W, bool. Pixels that touch at a side or a corner are connected.
        least_share: components that cover a smaller share of the image are left out. If all are
            smaller, the largest is returned, so that a row can say that the mask is too small.
        most: the most components to return, at least 1.

    Returns:
        Between 1 and `most` masks, H x W, bool; for an empty mask, only the empty mask itself. Of
        components of equal size, the upper left is first.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.size:
        return [mask]
    order = np.argsort(-sizes, kind="stable")
    chosen = [number for number in order[:most] if sizes[number] / mask.size >= least_share]
    return [labels == number + 1 for number in chosen or order[:1]]


def refined_size(resized: tuple[int, int], settings: MaskSettings) -> tuple[int, int]:
    """(height, width) at which masks are refined.

    Their shorter side is `refinement_side`, but at most the shorter side of `resized`.
    """
    side = min(settings.refinement_side, *resized)
    return resized_size(*resized, shorter_side=side)


def _interpolated(
    grid: np.ndarray, *, patch_size: int, resized: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """As `masks.grid_to_image`, with bilinear interpolation between the centres of patches."""
    values = grid.astype(np.float32)
    for axis, (count, length) in enumerate(zip(size, resized, strict=True)):
        last = grid.shape[axis] - 1
        places = ((np.arange(count) + 0.5) * length / (count * patch_size) - 0.5).clip(0, last)
        before = places.astype(np.int64)
        share = (places - before).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        after = np.minimum(before + 1, last)
        values = values.take(before, axis) * (1 - share) + values.take(after, axis) * share
    return values
