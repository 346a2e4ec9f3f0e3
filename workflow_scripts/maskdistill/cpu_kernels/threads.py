"""Threads on the CPU in which PyTorch's operations are single-threaded."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

# The most pixels in one pass of a thread; activations of more do not stay in its caches.
PIXELS = 2**18


@functools.cache
def single_threads(count: int) -> ThreadPoolExecutor:
    """A pool of threads in which PyTorch's operations are single-threaded.

    Threads that compute one operation together wait for each other at its end, and the shorter the
    operation, the larger is the share of this time.
    """
    return ThreadPoolExecutor(count, "single", initializer=_use_one_thread)


def _use_one_thread() -> None:
    torch.get_num_threads()  # its first call would reset the limit below
    threadpool_limits(1, user_api="openmp")


def by_image(function: Callable[[Tensor], tuple[Tensor, ...]], batch: Tensor) -> tuple[Tensor, ...]:
    """function(batch); on a CPU, every thread computes other images.

    Args:
        function: gives tensors whose first dimension is that of its argument; runs in inference
            mode.
        batch: B x channels x H x W.
    """
    count = torch.get_num_threads()
    if batch.device.type != "cpu" or min(len(batch), count) < 2:
        return function(batch)
    images = min(math.ceil(len(batch) / count), PIXELS // math.prod(batch.shape[2:]))
    # Inference mode belongs to a thread.
    parts = single_threads(count).map(torch.inference_mode()(function), batch.split(max(1, images)))
    return tuple(map(torch.cat, zip(*parts, strict=True)))
