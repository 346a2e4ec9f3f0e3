"""Generated clips as training data: masks of what moves in them, and random views."""

import concurrent.futures
import functools
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from workflow_scripts.maskdistill.demo import descriptors, scenes
from workflow_scripts.maskdistill.progress import progress

FRAME = 112  # side of the frames of a clip, in pixels


class Clips(NamedTuple):
    """One frame of each clip, the mask of what moves in it, and descriptors of what moves."""

    frames: np.ndarray  # n x H x W x 3, uint8
    moving: np.ndarray  # n x H x W, bool
    # n x d, float32: descriptors of the moving thing; NaN if no thing or several things move
    targets: np.ndarray


def draw_clips(count: int, *, seed: int, workers: int, describe: bool) -> Clips:
    """Draw clips, find moving things and optionally describe them, in `workers` processes."""
    frames = np.empty((count, FRAME, FRAME, 3), np.uint8)
    moving = np.empty((count, FRAME, FRAME), bool)
    described: list[list[np.ndarray] | None] = []
    draw = functools.partial(_draw_clip, seed, describe)
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(draw, range(count), chunksize=20)
        for index, (frame, mask, description) in enumerate(
            progress(drawn, description="clips", unit="clip", total=count)
        ):
            frames[index], moving[index] = frame, mask
            described.append(description)
    targets = _standardize(described) if describe else np.empty((count, 0), np.float32)
    return Clips(frames, moving, targets)


def _draw_clip(
    seed: int, describe: bool, index: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray] | None]:
    rng = np.random.default_rng([seed, index])
    clip = scenes.clip(rng, size=FRAME)
    masks = motion_masks(clip)
    if not describe:
        return clip[0], masks[0], None
    descriptions = []
    for frame, mask in zip(clip, masks, strict=True):
        numbers, _ = ndimage.label(mask)
        sizes = np.bincount(numbers.ravel())[1:]
        if not len(sizes) or sizes.max() < 250 or sizes.max() < 0.9 * sizes.sum():
            continue  # no thing moved, or several
        grey = frame.astype(float) @ rng.normal(size=3)
        descriptions.append(descriptors.describe(grey, numbers == 1 + sizes.argmax()))
    if len(descriptions) < 4:
        return clip[0], masks[0], None
    # The same thing moves in all frames. The median of its descriptors over the frames is less
    # noisy than its descriptors in one frame.
    parts = zip(*descriptions, strict=True)
    return clip[0], masks[0], [np.median(part, axis=0) for part in parts]


def _standardize(described: list[list[np.ndarray] | None]) -> np.ndarray:
    """Descriptors as one vector per clip, scaled so that each of the three kinds has variance 1."""
    known = [index for index, description in enumerate(described) if description is not None]
    kinds = []
    for values in zip(*(described[index] for index in known), strict=True):
        kind = np.stack(values)
        kinds.append((kind - kind.mean(0)) / (kind.std(0) + 1e-6) / kind.shape[1] ** 0.5)
    targets = np.full((len(described), sum(kind.shape[1] for kind in kinds)), np.nan, np.float32)
    targets[known] = np.concatenate(kinds, axis=1)
    return targets


def motion_masks(clip: np.ndarray, *, threshold: float = 24.0) -> np.ndarray:
    """Masks of what moves in front of a resting camera, by background subtraction.

    Args:
        clip: frames x H x W x 3, uint8.
        threshold: difference from the median frame, in grey levels, above which a pixel moves.

    Returns:
        frames x H x W, bool.
    """
    background = np.median(clip, axis=0)
    masks = np.empty(clip.shape[:3], bool)
    for mask, frame in zip(masks, clip, strict=True):
        difference = np.abs(frame - background).max(axis=2)
        changed = ndimage.median_filter(difference, 3) > threshold
        solid = ndimage.binary_fill_holes(ndimage.binary_closing(changed, iterations=2))
        mask[:] = ndimage.binary_opening(solid, iterations=2)
    return masks


def recolour(rng: np.random.Generator, images: np.ndarray, share: float = 0.3) -> Tensor:
    """Mix the colours of a share of the images at random, to keep only shape and texture.

    The mixture is a random linear map of the channels, with random brightness and contrast.

    Args:
        images: B x H x W x 3, uint8.
        share: share of the images to change, 0..1.

    Returns:
        B x 3 x H x W, float32, about -1 to 1.
    """
    pixels = torch.from_numpy(images).float() / 127.5 - 1
    mixing = torch.from_numpy(rng.normal(size=(len(images), 3, 3))).float()
    mixed = torch.einsum("bhwc,bdc->bdhw", pixels, mixing)
    mixed = mixed - mixed.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = torch.from_numpy(
        rng.uniform([[0.25], [-0.3]], [[0.6], [0.3]], size=(2, len(images)))
    ).float()[:, :, None, None, None]
    mixed = mixed / mixed.std(dim=(1, 2, 3), keepdim=True) * contrast + brightness
    chosen = torch.from_numpy(rng.uniform(size=len(images)) < share)[:, None, None, None]
    return torch.where(chosen, mixed, pixels.permute(0, 3, 1, 2))


def crop(rng: np.random.Generator, batch: Clips, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop the same random window from all frames and masks.

    Returns:
        Frames, B x side x side x 3, and masks, B x side x side.
    """
    top, left = rng.integers(0, FRAME - side + 1, size=2)
    window = (slice(None), slice(top, top + side), slice(left, left + side))
    return batch.frames[window], batch.moving[window]
