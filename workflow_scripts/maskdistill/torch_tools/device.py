"""Where the computation runs, and in which precision."""

import contextlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError

# float32 means float32. By default cuDNN rounds the inputs of convolutions to TF32, which keeps 10
# bits of the 23 of the fraction: a run on a GPU would then differ from one on a CPU by far more
# than the order of sums. The first line holds for convolutions and matrix products of every
# backend. The second keeps cuDNN's older flag in agreement with it, without which PyTorch 2.15
# refuses `torch.backends.cudnn.flags()`. Both are set on import, for every process.
torch.backends.fp32_precision = "ieee"
torch.backends.cudnn.allow_tf32 = False


def choose_device(name: str) -> torch.device:
    """The torch device for `--device`: cpu, cuda, cuda:N, or auto for CUDA where there is any.

    Raises:
        InputError: another name, or a GPU that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise InputError(
            f"device {name}: there is no such device; set runtime.device to auto, cpu, cuda or "
            "cuda:N"
        )
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise InputError(f"device {name}: this machine shows no CUDA GPU; use runtime.device: auto")
    if int(match[1] or 0) >= (count := torch.cuda.device_count()):
        raise InputError(
            f"device {name}: this machine shows {count} CUDA GPUs, counted from 0; "
            "use runtime.device: cuda"
        )
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Compute the products of a network in that precision, on whichever device.

    Args:
        precision: one of `precision.PRECISIONS`.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def gradient_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Keep gradients within the range of float16; in other precisions the scaler does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def start_copy_to_host(tensors: Sequence[torch.Tensor]) -> Callable[[], list[np.ndarray]]:
    """Begin to copy tensors of one device to the host.

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
