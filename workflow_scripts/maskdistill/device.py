"""Where the computation runs, and in which precision."""

import contextlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError


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


def half_precision(device: torch.device) -> torch.dtype | None:
    """The half precision that a GPU is fast in; None elsewhere.

    float16 has too narrow a range for gradients, bfloat16 has not.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(
    device: torch.device, precision: torch.dtype | None
) -> contextlib.AbstractContextManager:
    """Products of a network in that precision; None leaves them as they are."""
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)


def gradient_scaler(device: torch.device, precision: torch.dtype | None) -> torch.amp.GradScaler:
    """Keeps gradients within the range of float16; in other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision is torch.float16)


def begin_copy(tensors: Sequence[torch.Tensor]) -> Callable[[], list[np.ndarray]]:
    """Begin to copy tensors of one device; what is returned waits for it and gives the arrays.

    From a card they go into pinned memory, and work that is launched later is not waited for.
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
