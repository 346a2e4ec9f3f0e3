"""Object masks from the affinities of a vision transformer (Eq. 1 and 2).

K holds the keys k_I(h) of the patches, concatenated over the heads. The N x N matrix
A_I = 1/H Σ_h k_I(h) · k_I(h)ᵀ = K · Kᵀ / H is only used in products with a vector, so it is never
computed: A_I[s, :] = K · k_s / H, and Σ_{i ∈ P'} A_I[i, :] = K · (Σ_{i ∈ P'} k_i) / H. Time and
memory are linear in the number of patches N.

Keys are NumPy arrays, or torch tensors on the GPU that computed them. The functions here work on
both without importing torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from workflow_scripts.maskdistill.discovery import patch_scores
from workflow_scripts.maskdistill.discovery.patch_scores import array_module, root_mean_square
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

# Bits of positive and of negative infinity in float16.
_INFINITE, _NEGATIVE = 0x7C00, 0xFC00
# `center_keys: auto` centres the keys of an image unless at least this share of its patches has a
# negative affinity to the mean key.
_LEAST_OPPOSED = 0.05


class ObjectMask(NamedTuple):
    """One mask on the patch grid."""

    grid: np.ndarray  # rows x columns, bool
    source: tuple[int, int]  # row, column of the patch nearest to [CLS]
    proposals: int  # size of P', the patches that vote
    # rows x columns, float32, positive inside the mask: how far each patch is above the cut, in
    # deviations of the image's scores; None from a method without scores.
    scores: np.ndarray | None = None


def object_masks(
    keys: Array,
    cls_affinity: Array,
    grid: tuple[int, int],
    settings: MaskSettings,
) -> list[ObjectMask]:
    """Segment the objects of one image, on the device of its keys.

    The `top_k` share of patches nearest to [CLS] are the proposals P and the nearest is the source
    s; those of P with a positive affinity to s, P' = {j ∈ P : A_I[s, j] > 0}, vote, and the score
    of patch j is Σ_{i ∈ P'} A_I[i, j]. The mask is every patch with a positive score. Settings
    beyond the paper compute the scores in another way or cut them higher, see `_score_patches`.

    Args:
        keys: N x d float16 or float32, the keys of all heads, concatenated.
        cls_affinity: heads x N, q_CLS(h) · k_I(h).
        grid: (rows, columns) with rows x columns = N.
        settings: `center_keys` subtracts the image's mean key first, because the keys of small and
            of newer backbones share a large common part, which makes all affinities positive.
            Further masks are searched among the patches that earlier ones left; with a
            `next_source` of 1 there is only one mask.

    Returns:
        Between one and `settings.per_image` masks, which do not overlap; an empty one ends the
        search. If keys are on a GPU, only grids, scores, sources and numbers of proposals are
        copied from it.

    Raises:
        ValueError: shapes do not fit together.
    """
    rows, columns = grid
    if len(keys) != rows * columns or cls_affinity.shape[1] != len(keys):
        raise ValueError(
            f"{len(keys)} keys and {cls_affinity.shape} affinities for {rows} x {columns} patches"
        )
    xp = array_module(keys)
    keys = prepare_keys(keys, settings.center_keys)
    affinity = average_heads(cls_affinity, settings.heads)
    mean = affinity.mean()
    nearest = mean + settings.next_source * (affinity.max() - mean)
    free = xp.ones(len(keys), dtype=xp.bool, device=keys.device)
    found = []
    while len(found) < settings.per_image and free.any():
        proposals = select_proposals(affinity, settings.top_k, free)
        if found and affinity[proposals[0]] < nearest:
            break
        voters = similar_to_source(keys, proposals)
        scores, height = _score_patches(keys, affinity, voters, free, grid, settings)
        inside = scores > height
        inside[~free] = False
        mask = _to_host(inside).reshape(grid)
        source = int(proposals[0])
        if settings.source_component:
            mask = component_of(mask, source)
        found.append(
            ObjectMask(
                mask,
                divmod(source, columns),
                proposals=len(voters),
                scores=_above(scores, height, free, mask) if settings.at_pixels else None,
            )
        )
        if not mask.any():
            break  # the same source would be found again
        free &= ~xp.asarray(mask.ravel(), device=keys.device)
    return found


def prepare_keys(keys: Array, center: bool | str) -> Array:
    """The keys as float32, in a copy, without the image's mean key if `center` asks for this.

    Args:
        keys: N x d.
        center: `masks.center_keys`. "auto" decides by the affinities of the patches to the mean
            key: if (nearly) none is negative, the keys share a part that makes all affinities
            positive, and the mask would be the whole image.
    """
    keys = single_precision(keys)
    if not center:
        return keys
    mean = keys.mean(axis=0)
    if center == "auto" and (keys @ mean < 0).sum() >= _LEAST_OPPOSED * len(keys):
        return keys
    keys -= mean
    return keys


def _score_patches(
    keys: Array,
    affinity: Array,
    voters: Array,
    free: Array,
    grid: tuple[int, int],
    settings: MaskSettings,
) -> tuple[Array, float | Array]:
    """The score of every patch, and the height above which a patch is inside the mask.

    With the paper's settings, these are Eq. 2's sum and 0. The factor 1/H of Eq. 2 does not change
    a sign and is left out.
    """
    if settings.scores == "voters":
        scores = keys @ keys[voters].sum(axis=0)
    else:
        start = patch_scores.standardized(affinity, free)
        if settings.border_prior:
            border = patch_scores.border(grid, like=affinity)
            start = start - settings.border_prior * patch_scores.standardized(border, free)
        scores = patch_scores.diffused(keys, start, free, steps=settings.diffusion_steps)
    if settings.discriminant:
        scores = patch_scores.discriminant(keys, scores, free, cut=settings.cut)
    if not settings.cut:
        return scores, 0.0
    return scores, settings.cut * root_mean_square(scores[free])


def _above(scores: Array, height: float | Array, free: Array, mask: np.ndarray) -> np.ndarray:
    """`ObjectMask.scores`: scores above `height` in deviations, not positive outside the mask."""
    above = _to_host((scores - height) / root_mean_square(scores[free])).reshape(mask.shape)
    # Patches of other components and of earlier masks may have high scores.
    return np.where(mask, above, np.minimum(above, -np.abs(above)))


def _to_host(values: Array) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def single_precision(values: Array) -> Array:
    """A float32 copy; NumPy's float16 is converted bitwise, in a sixth of the time of a cast."""
    if values.dtype != np.float16:
        xp = array_module(values)
        return xp.asarray(values, dtype=xp.float32, copy=True)
    signed = values.view(np.int16)
    if signed.max(initial=0) >= _INFINITE or values.view(np.uint16).max(initial=0) >= _NEGATIVE:
        return values.astype(np.float32)
    # Move sign, exponent and fraction to their places, then correct the exponent's bias: 127 - 15.
    bits = signed.astype(np.int32)
    bits <<= 13
    bits &= np.array(0x8FFFE000, np.uint32).view(np.int32)
    single = bits.view(np.float32)
    single *= np.float32(2**112)
    return single


def average_heads(cls_affinity: Array, heads: Sequence[int] | None = None) -> Array:
    """a_CLS of Eq. 1: the mean of `cls_affinity` (heads x N) over all or some heads; N, float32.

    Raises:
        InputError: the backbone has no such head.
    """
    if heads is not None and not all(head < len(cls_affinity) for head in heads):
        raise InputError(
            f"masks.heads {list(heads)}: the backbone's heads are 0 to {len(cls_affinity) - 1}"
        )
    chosen = cls_affinity if heads is None else cls_affinity[list(heads)]
    xp = array_module(chosen)
    return xp.asarray(chosen, dtype=xp.float32).mean(axis=0)


def select_proposals(affinity: Array, top_k: float, free: Array) -> Array:
    """P: indices of the `top_k` share of the free patches nearest to [CLS], the source first.

    Args:
        affinity: a_CLS, N.
        free: N bool, at least one of them true.
    """
    xp = array_module(affinity)
    (candidates,) = xp.where(free)
    # Rounded first: in floating point, 0.7 of 90 is a little less than 63.
    count = max(1, math.floor(round(top_k * len(candidates), 9)))
    # Stable, so that the first of patches with equal affinities is chosen on any machine.
    order = xp.argsort(-affinity[candidates], stable=True)
    return candidates[order[:count]]


def similar_to_source(keys: Array, proposals: Array) -> Array:
    """P': the proposals whose affinity to the source (the first proposal) is positive.

    The source always belongs to P'.
    """
    to_source = keys[proposals] @ keys[proposals[0]]
    to_source[0] = math.inf
    return proposals[to_source > 0]


def component_of(grid: np.ndarray, source: int) -> np.ndarray:
    """The 4-connected component of a bool grid that holds the patch with flat index `source`."""
    labels, _ = ndimage.label(grid)
    label = labels.ravel()[source]
    return labels == label if label else np.zeros_like(grid)
