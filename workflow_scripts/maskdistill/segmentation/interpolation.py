"""Resizing along one axis as a product with a matrix, which can be exported for any length."""

from collections.abc import Callable

import torch
from torch import Tensor


def resizing(
    kernel: Callable[[Tensor], Tensor],
    old: int,
    new: int,
    *,
    scale: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """The matrix (new x old, float32) that resizes an axis of `old` values to `new` values.

    Where values are reduced, the kernel is widened against aliasing, as by Pillow and by
    `F.interpolate(…, antialias=True)`. Where they are enlarged, the matrix with `linear` equals
    bilinear interpolation of PyTorch. If `new` equals `old`, it is the identity.

    Args:
        kernel: `linear` or `cubic`.
        scale: distance between neighbouring new values, in old values (default: old / new).
        device: device of the matrix and of `scale`; None for the CPU.
    """
    if scale is None:
        scale = ratio(old, new, device=device)
    centres = scale * _centres(new, device)
    distances = (_centres(old, device) - centres[:, None]).abs() / scale.clamp(min=1)
    weights = kernel(distances)
    return weights / weights.sum(dim=1, keepdim=True)


def ratio(one: int, other: int, *, device: torch.device | None = None) -> Tensor:
    """one / other as a tensor with one value, because both may vary in an exported graph."""
    return (_centres(one, device)[-1:] + 0.5) / (_centres(other, device)[-1:] + 0.5)


def _centres(count: int, device: torch.device | None) -> Tensor:
    return torch.arange(count, dtype=torch.float32, device=device) + 0.5


def linear(distances: Tensor) -> Tensor:
    """The triangle filter; distances in units of the grid, at least 0."""
    return (1 - distances).clamp(min=0)


def cubic(distances: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, as Pillow's bicubic: two polynomials, up to 1 and up to 2."""
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((2.5 - 0.5 * distances) * distances - 4) * distances + 2
    return torch.where(distances < 1, near, torch.where(distances < 2, far, 0.0))
