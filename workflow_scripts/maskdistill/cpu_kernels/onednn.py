"""Matrix products by oneDNN, with one factor converted to oneDNN's memory layout beforehand.

PyTorch multiplies float32 matrices by MKL, which does not use the wide vector instructions of AMD
processors. On these, oneDNN takes less than half the time. The operators are not part of PyTorch's
public interface; `is_available` is false if PyTorch does not have them or their results are wrong.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.cache
def is_available() -> bool:
    """Whether the installed PyTorch has the operators and they compute correct results."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(5, 16, generator=generator) for _ in range(2))
    try:
        found = product(inputs, pack(weight), gelu=True)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(inputs, weight)), atol=1e-5)


def applies_to(*tensors: Tensor) -> bool:
    """Whether `product` can be used: for float32 tensors on the CPU, without autocast."""
    plain = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return plain and not torch.is_autocast_enabled("cpu") and is_available()


def pack(weight: Tensor) -> Tensor:
    """A copy of an n x m matrix in oneDNN's memory layout, for `product` only."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def product(
    inputs: Tensor, packed: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    """inputs · weightᵀ + bias, optionally followed by the exact GELU.

    Args:
        inputs: … x m, float32.
        packed: `pack(weight)`, with weight n x m.
        bias: n values, float32.
        gelu: whether to apply the GELU.
    """
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, name, [], algorithm)
