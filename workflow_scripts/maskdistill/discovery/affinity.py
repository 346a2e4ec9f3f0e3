"""Object masks from the affinities of a vision transformer (Eq. 1 and 2).

K holds the keys k_I(h) of the patches, concatenated over the heads. The N x N matrix
A_I = 1/H Σ_h k_I(h) · k_I(h)ᵀ = K · Kᵀ / H is never computed, because the equations only need its
products with a vector: A_I[s, :] = K · k_s / H, and
Σ_{i ∈ P'} A_I[i, :] = K · (Σ_{i ∈ P'} k_i) / H. Time and memory are linear in the number of
patches N.

Keys are NumPy arrays, or torch tensors on the GPU that computed them. The functions here work on
arrays and on tensors without importing torch.
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

# The bits of +infinity and -infinity in float16.
_INFINITE, _NEGATIVE = 0x7C00, 0xFC00
# `center_keys: auto` centres the keys of an image unless at least this share of its patches has a
# negative affinity to the mean key.
_LEAST_OPPOSED = 0.05


class ObjectMask(NamedTuple):
    """One mask on the patch grid."""

    grid: np.ndarray  # rows x columns, bool
    source: tuple[int, int]  # row, column of the patch nearest to [CLS]
    proposals: int  # number of patches in P', whose affinities to a patch are added up
    # rows x columns, float32: score of each patch minus the threshold of the mask, divided by the
    # root mean square of the scores; positive inside the mask. None for a method without scores.
    scores: np.ndarray | None = None


def object_masks(
    keys: Array,
    cls_affinity: Array,
    grid: tuple[int, int],
    settings: MaskSettings,
) -> list[ObjectMask]:
    """Segment the objects of one image, on the device of its keys.

    The proposals P are the `top_k` share of patches with the highest affinity to [CLS]; the highest
    of all is the source s. The voters are the proposals with a positive affinity to s,
    P' = {j ∈ P : A_I[s, j] > 0}. The score of patch j is Σ_{i ∈ P'} A_I[i, j], and the mask is
    every patch with a positive score. Settings beyond the paper compute other scores or raise the
    threshold, see `_score_patches`.

    Args:
        keys: N x d float16 or float32, the keys of all heads, concatenated.
        cls_affinity: heads x N, q_CLS(h) · k_I(h).
        grid: (rows, columns) with rows x columns = N.
        settings: `center_keys` subtracts the image's mean key first, because the keys of small and
            of newer backbones share a large common part, which makes all affinities positive.
            If `per_image` is above 1, further masks are searched among the patches outside all
            earlier masks; with a `next_source` of 1 there is only one mask.

    Returns:
        Between one and `settings.per_image` masks, which do not overlap. If a mask is empty, it is
        returned, too, and the search ends. If the keys are on a GPU, only grids, scores, sources
        and numbers of proposals are copied from it.

    Raises:
        ValueError: the shapes of keys, affinities and grid do not fit together.
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
            break  # no patch was used up, so that the next search would find the same source
        free &= ~xp.asarray(mask.ravel(), device=keys.device)
    return found


def prepare_keys(keys: Array, center: bool | str) -> Array:
    """A float32 copy of the keys, minus the image's mean key if `center` says so.

    Args:
        keys: N x d.
        center: `masks.center_keys`. "auto" decides by the affinities of the patches to the mean
            key: the mean is subtracted if (nearly) none of them is negative. The keys then share
            a part that makes all affinities positive, and the mask would be the whole image.
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
    """The score of every patch, and the threshold above which a patch is inside the mask.

    With the paper's settings, the score is the sum in Eq. 2 and the threshold is 0. The factor 1/H
    of Eq. 2 is left out, because it does not change the sign of a score.
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
    """`ObjectMask.scores`: (scores - `height`) / root mean square, at most 0 outside the mask."""
    above = _to_host((scores - height) / root_mean_square(scores[free])).reshape(mask.shape)
    # Patches outside the mask with a high score, of other components or of earlier masks, become
    # negative.
    return np.where(mask, above, np.minimum(above, -np.abs(above)))


def _to_host(values: Array) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def single_precision(values: Array) -> Array:
    """A float32 copy; NumPy's float16 is converted bitwise, six times as fast as by a cast."""
    if values.dtype != np.float16:
        xp = array_module(values)
        return xp.asarray(values, dtype=xp.float32, copy=True)
    signed = values.view(np.int16)
    if signed.max(initial=0) >= _INFINITE or values.view(np.uint16).max(initial=0) >= _NEGATIVE:
        return values.astype(np.float32)
    # Move sign, exponent and fraction to their places in float32, then correct the exponent, whose
    # bias is 127 in float32 and 15 in float16.
    bits = signed.astype(np.int32)
    bits <<= 13
    bits &= np.array(0x8FFFE000, np.uint32).view(np.int32)
    single = bits.view(np.float32)
    single *= np.float32(2**112)
    return single


def average_heads(cls_affinity: Array, heads: Sequence[int] | None = None) -> Array:
    """a_CLS of Eq. 1: the mean of `cls_affinity` (heads x N) over all or some heads; N, float32.

    Raises:
        InputError: `heads` names a head that the backbone does not have.
    """
    if heads is not None and not all(head < len(cls_affinity) for head in heads):
        raise InputError(
            f"masks.heads {list(heads)}: the backbone's heads are 0 to {len(cls_affinity) - 1}"
        )
    chosen = cls_affinity if heads is None else cls_affinity[list(heads)]
    xp = array_module(chosen)
    return xp.asarray(chosen, dtype=xp.float32).mean(axis=0)


def select_proposals(affinity: Array, top_k: float, free: Array) -> Array:
    """P, the proposals: indices of the `top_k` share of the free patches nearest to [CLS].

    The source, which is the nearest, comes first.

    Args:
        affinity: a_CLS, N.
        free: N bool, the patches outside all earlier masks; at least one is true.
    """
    xp = array_module(affinity)
    (candidates,) = xp.where(free)
    # Round first, because 0.7 * 90 in floating point is a little less than 63.
    count = max(1, math.floor(round(top_k * len(candidates), 9)))
    # A stable sort, so that all machines order patches with equal affinities in the same way.
    order = xp.argsort(-affinity[candidates], stable=True)
    return candidates[order[:count]]


def similar_to_source(keys: Array, proposals: Array) -> Array:
    """P', the voters: proposals with a positive affinity to the source, the first proposal.

    The source always belongs to P'.
    """
    to_source = keys[proposals] @ keys[proposals[0]]
    to_source[0] = math.inf
    return proposals[to_source > 0]


def component_of(grid: np.ndarray, source: int) -> np.ndarray:
    """The 4-connected component of a bool grid that contains the patch with flat index `source`."""
    labels, _ = ndimage.label(grid)
    label = labels.ravel()[source]
    return labels == label if label else np.zeros_like(grid)
