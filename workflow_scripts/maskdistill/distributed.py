"""Training on several GPUs or nodes under torchrun; a no-op in a single process."""

import contextlib
import math
import os
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from workflow_scripts.maskdistill.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """Number of this process, 0 where there is only one."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of training processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes (NCCL on GPUs, gloo on CPUs); yields this process's device.

    A group that the program's launcher has formed already is taken as it is.

    Raises:
        InputError: a process has no GPU of its own.
    """
    if world_size() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise InputError(
                f"{world_size()} training processes, but {torch.cuda.device_count()} GPUs here; "
                "set runtime.gpus to what one node has"
            )
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Average gradients over the processes, and batch statistics where the GPU can."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def share_of(workers: int) -> int:
    """How many of a job's `workers` are this process's; 0 stays 0."""
    return math.ceil(workers / world_size())


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` holds in any process; all of them learn the same answer."""
    if world_size() == 1:
        return flag
    tensor = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return bool(tensor.item())


def mean(value: float, device: torch.device) -> float:
    """The mean of `value` over the processes; all of them learn the same answer."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return tensor.item() / world_size()


def from_first(value: T) -> T:
    """The first process's `value` (tensors on the CPU), in every process."""
    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]
