"""Linear layers of frozen models on the CPU, by oneDNN with weights packed once.

PyTorch multiplies float32 matrices by MKL, which leaves the wider vectors of AMD's processors idle:
there oneDNN takes less than half the time, and computes a GELU behind the product in passing. Where
PyTorch comes without it, layers stay what they were.
"""

import functools

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn


class PackedLinear(nn.Linear):
    """A frozen layer that shares the parameters of `linear`, and keeps a packed copy on the CPU.

    Args:
        linear: the layer.
        gelu: whether the exact GELU follows.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._gelu = gelu
        self._packed: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output; in other precisions and on other devices as PyTorch computes it."""
        plain = inputs.device.type == "cpu" and inputs.dtype == self.weight.dtype == torch.float32
        if not plain or torch.is_autocast_enabled("cpu"):
            outputs = F.linear(inputs, self.weight, self.bias)
            return F.gelu(outputs) if self._gelu else outputs
        if self._packed is None:
            self._packed = _pack(self.weight)
        return _product(inputs, self._packed, self.bias, self._gelu)


def pack_linear_layers(model: nn.Module) -> None:
    """Replace the linear layers of a frozen model, where that is possible; names stay.

    In an MLP of timm the exact GELU becomes part of its first layer.
    """
    if not _is_available():
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                # In other MLPs, gated ones say, the activation sees more than that product.
                gelu = type(module) is Mlp and name == "fc1" and _is_exact_gelu(module.act)
                setattr(module, name, PackedLinear(child, gelu=gelu))
                if gelu:
                    module.act = nn.Identity()


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"


@functools.cache
def _is_available() -> bool:
    """Whether this PyTorch has the operators, which are not part of its interface."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(5, 16, generator=generator) for _ in range(2))
    try:
        found = _product(inputs, _pack(weight), None, gelu=True)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(inputs, weight)), atol=1e-5)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def _product(inputs: Tensor, packed: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, name, [], algorithm)
