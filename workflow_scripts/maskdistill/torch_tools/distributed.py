"""Training in several processes under torchrun, one per GPU; nothing changes in a single process.

The number of processes must not change what a training computes, except for the order of
floating-point sums. Means, batch statistics and the size of padded batches are therefore
computed over the global batch, which consists of the images of all processes in one step. Each
process has an equal, consecutive part of it (see `sampling.BatchPlan`).
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workflow_scripts.maskdistill.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of training processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Connect to the other processes (NCCL on GPUs, gloo on CPUs); yields this process's device.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    if world_size() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise InputError(
                f"{world_size()} training processes, but {torch.cuda.device_count()} GPUs here; "
                "set runtime.gpus to the number of GPUs of one node"
            )
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Average gradients and the statistics of batch normalisation over all processes."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Changing the class keeps parameters, buffers and mode as they are.
                module.__class__ = _GlobalBatchNorm
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def provenance(device: torch.device) -> dict[str, str | int]:
    """Entries of the provenance record: "device" (cpu or the GPU's name) and "processes"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "processes": world_size()}


def share_of(workers: int) -> int:
    """This process's share of a job's `workers`, rounded up: 0 only if `workers` is 0."""
    return math.ceil(workers / world_size())


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true in any process; all processes get the same result."""
    if world_size() == 1:
        return flag
    tensor = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return bool(tensor.item())


def means(values: Sequence[float], device: torch.device) -> list[float]:
    """The mean of each value over the processes; all processes get the same result."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor)
    return (tensor / world_size()).tolist()


def mean_counts(counts: Sequence[int], device: torch.device) -> list[float]:
    """Divisors that turn a process's sums of losses into means over the global batch.

    Each process adds up the terms of its own part, and `parallel` averages the gradients over the
    processes. The average is the mean over all terms if each sum is divided by the mean number of
    terms per process.

    Args:
        counts: number of terms in each of this process's sums.

    Returns:
        The mean of each number over the processes; 1 in place of 0, when all sums are 0, too.
    """
    return [mean or 1.0 for mean in means([float(count) for count in counts], device)]


def largest(values: Sequence[int], device: torch.device) -> list[int]:
    """The maximum of each value over the processes; all processes get the same result."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
    return tensor.tolist()


def gather(values: Tensor) -> list[Tensor]:
    """Collect one-dimensional tensors of all processes, ordered by rank; lengths may differ."""
    if world_size() == 1:
        return [values]
    length = torch.tensor([len(values)], device=values.device)
    lengths = [torch.empty_like(length) for _ in range(world_size())]
    torch.distributed.all_gather(lengths, length)
    # `all_gather` needs tensors of equal size.
    sizes = torch.cat(lengths).tolist()
    padded = functional.pad(values, (0, max(sizes) - len(values)))
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def from_first(value: T) -> T:
    """Send `value` of the first process (with tensors on the CPU) to every process."""
    if world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; gradients are summed over them, too."""

    @staticmethod
    def forward(_, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(_, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


class _GlobalBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the global batch, on CPUs.

    PyTorch's own `SyncBatchNorm` needs GPUs. Processes may have different numbers of values in a
    batch, or none.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of B x C x H x W."""
        if not self.training:
            return super().forward(x)
        dimensions, shape = (0, 2, 3), (1, -1, 1, 1)
        values = x.float()
        own_count = values.new_full((x.shape[1],), x.numel() // x.shape[1])
        total, count = _Sum.apply(torch.stack([values.sum(dimensions), own_count]))
        mean = total / count
        centred = values - mean.view(shape)
        squares = _Sum.apply(centred.square().sum(dimensions))
        scale = self.weight * (squares / count + self.eps).rsqrt()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(squares / (count - 1), self.momentum)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
