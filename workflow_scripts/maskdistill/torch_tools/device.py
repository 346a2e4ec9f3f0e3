"""Choice of the device and of the precision of computations."""

import contextlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError

# Do not replace float32 by TF32. By default cuDNN rounds the inputs of convolutions to TF32 (10
# instead of 23 bits), so that results on a GPU and on a CPU would differ far more than by the order
# of floating-point sums. The first line sets this for convolutions and matrix products of every
# backend; the second sets cuDNN's older flag to match, because PyTorch 2.15 otherwise refuses
# `torch.backends.cudnn.flags()`. Both are set on import, for every process.
torch.backends.fp32_precision = "ieee"
torch.backends.cudnn.allow_tf32 = False


def choose_device(name: str) -> torch.device:
    """The torch device for `--device`: cpu, cuda, cuda:N, or auto (CUDA if available).

    Raises:
        InputError: another name, or a GPU that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(
            f"device {name}: no such device; set runtime.device to auto, cpu, cuda or cuda:N"
        )
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise InputError(f"device {name}: this machine has no CUDA GPU; use runtime.device: auto")
    if int(match[1] or 0) >= (count := torch.cuda.device_count()):
        raise InputError(
            f"device {name}: this machine has {count} CUDA GPUs, counted from 0; "
            "use runtime.device: cuda"
        )
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Compute the matrix products of a network in this precision, on any device.

    Args:
        precision: one of `precision.PRECISIONS`.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def gradient_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """A scaler that keeps gradients in the range of float16; a no-op for other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def start_copy_to_host(tensors: Sequence[torch.Tensor]) -> Callable[[], list[np.ndarray]]:
    """Start to copy tensors of one device to the host.

    Returns:
        A function that waits for the copies, but not for work that is launched later, and returns
        them as arrays. Copies from a GPU are in pinned memory.
    """
    device = tensors[0].device
    module = torch.get_device_module(device)
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    done = module.Event()
    done.record(module.current_stream(device))

    def wait() -> list[np.ndarray]:
        done.synchronize()
        return [copy.numpy() for copy in copies]

    return wait
