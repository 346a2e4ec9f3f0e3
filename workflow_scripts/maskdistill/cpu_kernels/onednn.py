"""Matrix products by oneDNN, with the right factor packed beforehand.

PyTorch multiplies float32 matrices by MKL, which does not use the wider vectors of AMD's
processors: there oneDNN takes less than half the time. The operators are not part of PyTorch's
public interface; `is_available` is false for a PyTorch that lacks them or computes something else.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.cache
def is_available() -> bool:
    """Whether this PyTorch has the operators, with correct results."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(5, 16, generator=generator) for _ in range(2))
    try:
        found = product(inputs, pack(weight), gelu=True)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(inputs, weight)), atol=1e-5)


def applies_to(*tensors: Tensor) -> bool:
    """Whether products of these tensors are float32 ones on the CPU, autocast or not."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return plain and not torch.is_autocast_enabled("cpu") and is_available()


def pack(weight: Tensor) -> Tensor:
    """A copy of an n x m matrix in oneDNN's own order, for `product` only."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def product(
    inputs: Tensor, packed: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    """inputs · weightᵀ + bias, followed by the exact GELU if asked for.

    Args:
        inputs: … x m, float32.
        packed: of `pack`.
        bias: n.
        gelu: whether to apply it.
    """
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, name, [], algorithm)
