"""Linear layers of frozen models on the CPU by oneDNN; their weights are converted for it once."""

import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from workflow_scripts.maskdistill.cpu_kernels import onednn


class PackedLinear(nn.Linear):
    """A frozen linear layer, with a copy of its weights in oneDNN's memory layout.

    Args:
        linear: the layer to replace, whose parameters are shared.
        gelu: whether the exact GELU is applied to the output.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self._gelu = gelu
        self._packed: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output; PyTorch computes it if oneDNN cannot (`onednn.applies_to`)."""
        if not onednn.applies_to(inputs, self.weight):
            outputs = F.linear(inputs, self.weight, self.bias)
            return F.gelu(outputs) if self._gelu else outputs
        if self._packed is None:
            self._packed = onednn.pack(self.weight)
        return onednn.product(inputs, self._packed, self.bias, gelu=self._gelu)


def pack_linear_layers(model: nn.Module) -> None:
    """Replace the linear layers of a frozen model by `PackedLinear`; parameters keep their names.

    In an MLP of timm, an exact GELU becomes part of the first layer's operation.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                # Only in a plain MLP is the first layer's output the activation's input.
                gelu = type(module) is Mlp and name == "fc1" and _is_exact_gelu(module.act)
                setattr(module, name, PackedLinear(child, gelu=gelu))
                if gelu:
                    module.act = nn.Identity()


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"
