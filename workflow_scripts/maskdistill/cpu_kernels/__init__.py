"""Faster attention and linear layers for frozen models on the CPU."""

import os

from torch import nn

from workflow_scripts.maskdistill.cpu_kernels import onednn
from workflow_scripts.maskdistill.cpu_kernels.packed_attention import pack_attention
from workflow_scripts.maskdistill.cpu_kernels.packed_linear import pack_linear_layers


def accelerate(model: nn.Module) -> None:
    """Let a frozen timm model compute its attention and linear layers by oneDNN on the CPU.

    The model's parameters keep their names. Results differ from PyTorch's only by the order of
    floating-point sums. The function does nothing if PyTorch does not have the operators, or if the
    environment variable MASKDISTILL_CPU_KERNELS is 0.
    """
    # On two cores of an AMD processor, float32 products take less than half of PyTorch's time, and
    # features of ViT-S/16 at 640 x 864 pixels take 0.45 s per image, which is 1.23 times the time
    # of their matrix products alone; see docs/measurements.md.
    if os.environ.get("MASKDISTILL_CPU_KERNELS") == "0" or not onednn.is_available():
        return
    pack_linear_layers(model)
    pack_attention(model)
