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
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

# Bits of positive and of negative infinity in float16.
_INFINITE, _NEGATIVE = 0x7C00, 0xFC00


class ObjectMask(NamedTuple):
    """One mask on the patch grid."""

    grid: np.ndarray  # rows x columns, bool
    source: tuple[int, int]  # row, column of the patch nearest to [CLS]
    proposals: int  # size of P', the patches that vote


def object_masks(
    keys: Array,
    cls_affinity: Array,
    grid: tuple[int, int],
    settings: MaskSettings,
) -> list[ObjectMask]:
    """Segment the objects of one image, on the device of its keys.

    The `top_k` share of patches nearest to [CLS] are the proposals P and the nearest is the source
    s; those of P with a positive affinity to s, P' = {j ∈ P : A_I[s, j] > 0}, vote, and the mask
    is every patch j with Σ_{i ∈ P'} A_I[i, j] > 0.

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
        search. If keys are on a GPU, only grids, sources and numbers of proposals are copied from
        it.

    Raises:
        ValueError: shapes do not fit together.
    """
    xp = _namespace(keys)
    rows, columns = grid
    if len(keys) != rows * columns or cls_affinity.shape[1] != len(keys):
        raise ValueError(
            f"{len(keys)} keys and {cls_affinity.shape} affinities for {rows} x {columns} patches"
        )
    keys = single_precision(keys)
    if settings.center_keys:
        keys -= keys.mean(axis=0)
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
        mask = _to_host(diffuse(keys, voters) & free).reshape(grid)
        source = int(proposals[0])
        if settings.source_component:
            mask = component_of(mask, source)
        found.append(ObjectMask(mask, divmod(source, columns), proposals=len(voters)))
        if not mask.any():
            break  # the same source would be found again
        free &= ~xp.asarray(mask.ravel(), device=keys.device)
    return found


def _namespace(values: Array) -> ModuleType:
    """The module for these values, NumPy or torch."""
    return np if isinstance(values, np.ndarray) else sys.modules["torch"]


def _to_host(values: Array) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def single_precision(values: Array) -> Array:
    """A float32 copy; NumPy's float16 is converted bitwise, in a sixth of the time of a cast."""
    if values.dtype != np.float16:
        xp = _namespace(values)
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
    xp = _namespace(chosen)
    return xp.asarray(chosen, dtype=xp.float32).mean(axis=0)


def select_proposals(affinity: Array, top_k: float, free: Array) -> Array:
    """P: indices of the `top_k` share of the free patches nearest to [CLS], the source first.

    Args:
        affinity: a_CLS, N.
        free: N bool, at least one of them true.
    """
    xp = _namespace(affinity)
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


def diffuse(keys: Array, voters: Array) -> Array:
    """Patches whose affinities to the voters have a positive sum; N bool.

    The factor 1/H of Eq. 2 does not change a sign and is left out.
    """
    return keys @ keys[voters].sum(axis=0) > 0


def component_of(grid: np.ndarray, source: int) -> np.ndarray:
    """The 4-connected component of a bool grid that holds the patch with flat index `source`."""
    labels, _ = ndimage.label(grid)
    label = labels.ravel()[source]
    return labels == label if label else np.zeros_like(grid)
