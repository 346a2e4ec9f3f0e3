"""Choice of the device and of the precision of computations."""

import contextlib
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError

# Compute float32 in full precision, not in TF32. By default, cuDNN rounds the inputs of
# convolutions to TF32 (10 instead of 23 bits of mantissa), and results on a GPU and on a CPU would
# differ far more than by the order of floating-point sums. The first line switches TF32 off for all
# convolutions and matrix products. The second sets an older flag of cuDNN to the same, because
# PyTorch 2.15 otherwise refuses `torch.backends.cudnn.flags()`. Importing this module sets both.
torch.backends.fp32_precision = "ieee"
torch.backends.cudnn.allow_tf32 = False


def choose_device(name: str) -> torch.device:
    """The torch device for `--device`: cpu, cuda, cuda:N, or auto (CUDA if available).

    Raises:
        InputError: the name is unknown, or this machine does not have the GPU.
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


# Instructions by which processors of x86 and Arm multiply matrices in half precision. Without them,
# PyTorch emulates the products, which takes longer than float32.
_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def multiplies_in(device: torch.device, precision: str) -> bool:
    """Whether the device's hardware multiplies matrices in this precision.

    True for all GPUs, and for CPUs of which PyTorch does not tell the instruction sets.
    """
    if device.type != "cpu" or precision not in _INSTRUCTIONS:
        return True
    if not hasattr(torch.cpu, "get_capabilities"):  # older versions of PyTorch
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _INSTRUCTIONS[precision])


def usable_precision(device: torch.device, precision: str) -> str:
    """The precision in which the device computes: float32 instead of one that it would emulate.

    The first time that it differs from `precision`, a line on stdout says so.
    """
    if multiplies_in(device, precision):
        return precision
    _say_once(
        f"precision: this processor has no {precision} products and would be slower with them than "
        "with float32, so float32 is used"
    )
    return "float32"


@functools.cache
def _say_once(line: str) -> None:
    print(line, flush=True)


def replaced_precisions(precisions: Mapping[str, str], device: torch.device) -> dict[str, str]:
    """Setting → the precision used in its place, for every precision that the device lacks.

    Args:
        precisions: setting → its value.
    """
    used = {name: usable_precision(device, value) for name, value in precisions.items()}
    return {name: value for name, value in used.items() if value != precisions[name]}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """A context in which a network's matrix products are computed in `usable_precision`.

    Args:
        precision: one of `precision.PRECISIONS`.
    """
    if usable_precision(device, precision) == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def gradient_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """A scaler that keeps gradients in the range of float16; without float16 it does nothing."""
    enabled = usable_precision(device, precision) == "float16"
    return torch.amp.GradScaler(device.type, enabled=enabled)


def start_copy_to_host(tensors: Sequence[torch.Tensor]) -> Callable[[], list[np.ndarray]]:
    """Start copying tensors, all of one GPU (or other device), to the CPU's memory.

    Returns:
        A function that waits until the copies are complete and returns them as arrays. It does not
        wait for work that the device was given later. Copies from a GPU are in pinned memory.
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
