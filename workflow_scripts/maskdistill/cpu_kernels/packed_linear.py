"""Linear layers of frozen models on the CPU, by oneDNN with weights packed once."""

import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from workflow_scripts.maskdistill.cpu_kernels import onednn


class PackedLinear(nn.Linear):
    """A frozen layer that shares the parameters of `linear` and keeps a packed copy of them.

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
        """The layer's output; PyTorch computes it in other precisions and on other devices."""
        if not onednn.applies_to(inputs, self.weight):
            outputs = F.linear(inputs, self.weight, self.bias)
            return F.gelu(outputs) if self._gelu else outputs
        if self._packed is None:
            self._packed = onednn.pack(self.weight)
        return onednn.product(inputs, self._packed, self.bias, gelu=self._gelu)


def pack_linear_layers(model: nn.Module) -> None:
    """Replace the linear layers of a frozen model where possible; parameters keep their names.

    In an MLP of timm, the exact GELU becomes part of the first layer.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                # In other MLPs (gated ones) the activation's input is not the first layer's output.
                gelu = type(module) is Mlp and name == "fc1" and _is_exact_gelu(module.act)
                setattr(module, name, PackedLinear(child, gelu=gelu))
                if gelu:
                    module.act = nn.Identity()


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"
