"""Scores of patches that the paper does not have: by diffusion and by a linear discriminant.

Keys and vectors are NumPy arrays, or torch tensors on the GPU that computed them, as in
`affinity`. Time and memory are linear in the number of patches N.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    Array = np.ndarray | torch.Tensor

_TINY = 1e-30  # keeps divisors above 0


def array_module(values: Array) -> ModuleType:
    """The module for these values, NumPy or torch."""
    return np if isinstance(values, np.ndarray) else sys.modules["torch"]


def root_mean_square(values: Array) -> Array:
    """The root mean square of values; one number, greater than 0."""
    return (values * values).mean() ** 0.5 + _TINY


def separation(keys: Array, mask: np.ndarray) -> float:
    """How well a mask separates the keys of an image: its measure of quality, 0..1.

    This is the share of the variance of the keys that is between the two groups of patches, inside
    and outside the mask. It is 0 for a mask of all patches or of none, and about 1/N for a mask of
    random patches.

    Args:
        keys: N x d, float16 or float32.
        mask: rows x columns, bool, with rows x columns = N.
    """
    xp = array_module(keys)
    keys = xp.asarray(keys, dtype=xp.float32)
    inside = xp.asarray(mask.ravel(), device=keys.device)
    share = float(mask.mean())
    if share in (0.0, 1.0):
        return 0.0
    mean = keys.mean(axis=0)
    total = float(((keys - mean) ** 2).sum()) / len(keys)
    if total == 0:
        return 0.0
    difference = keys[inside].mean(axis=0) - keys[~inside].mean(axis=0)
    return share * (1 - share) * float((difference * difference).sum()) / total


def standardized(values: Array, free: Array) -> Array:
    """Values minus the mean of the free patches, divided by their standard deviation.

    Args:
        values: N, float32.
        free: N bool, the patches outside all earlier masks; at other patches the result is 0.
    """
    deviations = (values - values[free].mean()) * free
    return deviations / root_mean_square(deviations[free])


def border(grid: tuple[int, int], like: Array) -> Array:
    """1 for the patches along the border of the image, 0 for the others; N values.

    Args:
        grid: (rows, columns).
        like: an array whose type (NumPy or torch) and device the result gets.
    """
    rows, columns = grid
    frame = np.ones(grid, np.float32)
    frame[1 : rows - 1, 1 : columns - 1] = 0
    xp = array_module(like)
    return xp.asarray(frame.ravel(), device=like.device)


def diffused(keys: Array, start: Array, free: Array, *, steps: int) -> Array:
    """(K · Kᵀ)^steps · start among the free patches.

    One step is Eq. 2 with the weights `start` in place of 1 for each voter. With more steps, the
    scores approach the projection of the keys on their first principal direction, with the sign
    that agrees with `start`.

    Args:
        keys: N x d float32.
        start: N, float32, 0 at patches that are not free.
        free: N bool, the patches outside all earlier masks.

    Returns:
        N, float32, up to a positive factor.
    """
    scores = start
    for _ in range(steps):
        scores = keys @ (keys.T @ (scores * free))
        scores = scores / root_mean_square(scores[free])
    return scores


def discriminant(keys: Array, scores: Array, free: Array, *, cut: float) -> Array:
    """Scores by the linear function of the keys that best separates high from low `scores`.

    The function is Fisher's linear discriminant Σ⁻¹ (μ₁ - μ₀) between two groups of free patches:
    those with scores above `cut` times the root mean square of the scores, and the others. Σ is the
    covariance within the groups plus the identity times the mean variance of the keys. Without this
    addition, the solution would follow noise, because there are not many more patches than
    dimensions. The score is 0 half-way between the two means.

    Args:
        keys: N x d float32.
        scores: N, float32.
        free: N bool, the patches outside all earlier masks.

    Returns:
        N, float32; `scores` if one of the groups is empty.
    """
    xp = array_module(keys)
    high = free & (scores > cut * root_mean_square(scores[free]))
    low = free & ~high
    if not (high.any() and low.any()):
        return scores
    means, scatter = [], 0
    for group in (high, low):
        members = keys[group]
        mean = members.mean(axis=0)
        members = members - mean
        means.append(mean)
        scatter = scatter + members.T @ members
    count, size = high.sum() + low.sum(), keys.shape[1]
    covariance = scatter / count
    centered = keys[free] - keys[free].mean(axis=0)
    covariance = covariance + (centered * centered).mean() * xp.eye(
        size, dtype=keys.dtype, device=keys.device
    )
    weights = xp.linalg.solve(covariance, means[0] - means[1])
    return keys @ weights - (means[0] + means[1]) @ weights / 2
