"""Which images belong to which training step, so that a training can resume at any step."""

import contextlib
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools import distributed


class Sample(NamedTuple):
    """One image of one training step; step and position seed its augmentation."""

    step: int
    position: int  # in the global batch (the batch over all processes)
    index: int  # number of the image

    def generator(self, seed: int) -> np.random.Generator:
        """A random generator for this sample, independent of the process that loads it."""
        return np.random.default_rng([seed, self.step, self.position])


def seed_step(seed: int, step: int) -> None:
    """Seed torch's global generator for one step, with the same seed in every process.

    Random numbers that must differ between images (for dropout or sampled anchors) are drawn from
    `image_generators`.
    """
    place = np.random.SeedSequence([seed, step])
    torch.manual_seed(int(place.generate_state(1)[0]))


def image_generators(count: int) -> list[np.random.Generator]:
    """A random generator for each image of this process's part of a batch.

    A generator's numbers depend only on the image's position in the global batch and on the state
    of torch's global generator on the CPU, not on the number of processes or the device. Each call
    advances the global generator, so that all processes must make equally many calls between two
    calls of `seed_step`.

    Args:
        count: number of images in this part, equal in all processes.
    """
    call = int(torch.randint(2**63 - 1, ()))
    first = distributed.rank() * count
    return [np.random.default_rng([call, first + number]) for number in range(count)]


def training_batches(
    data: Dataset,
    batch_size: int,
    *,
    seed: int,
    start: int,
    stop: int,
    section: str,
    device: torch.device,
    workers: int,
    collate: Callable[[list], object] | None = None,
) -> contextlib.closing:
    """This process's part of the batches of steps `start` to `stop` - 1; see `BatchPlan`.

    Args:
        data: data set whose items are indexed by a `Sample`.
        section: section of the config with the `batch_size`, for error messages.
        device: device of the network.
        workers: loading processes; with 0 this process loads the items itself.
        collate: function from a list of items to a batch; None stacks the items.

    Returns:
        A context manager that yields the iterator and ends the loading processes.

    Raises:
        InputError: the processes cannot share a batch evenly.
    """
    try:
        plan = BatchPlan(
            len(data),
            batch_size,
            seed=seed,
            start=start,
            stop=stop,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
    except ValueError as error:
        raise InputError(f"{section}.batch_size: {error}") from error
    loader = DataLoader(
        data,
        batch_sampler=plan,
        num_workers=workers,
        worker_init_fn=ignore_sigterm,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    return contextlib.closing(batches_of(loader))


def ignore_sigterm(worker: int) -> None:
    """Let a loading process ignore SIGTERM (a `worker_init_fn`).

    SLURM sends SIGTERM to all processes of a job. If a loading process ended, the training process
    would fail before it has saved its state.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches_of(loader: Iterable) -> Generator:
    """The batches of a `torch.utils.data.DataLoader`; close it (`contextlib.closing`) after use.

    Closing ends the loading processes. Otherwise the traceback of an error would keep them alive.
    Python sends SIGTERM to them when it exits and would wait for them forever, because they ignore
    SIGTERM (see `ignore_sigterm`).

    Raises:
        InputError: the data set raised it; the loading process's traceback is removed from it.
    """
    iterator = iter(loader)
    try:
        yield from iterator
    except InputError as error:
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
    finally:
        # PyTorch has no public method that ends the loading processes. Without loading processes,
        # the iterator does not have this private method, either.
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


class BatchPlan:
    """Batch sampler for `torch.utils.data.DataLoader` over steps `start` to `stop` - 1.

    The images are shuffled for each epoch; the sequence of all epochs is cut into batches of
    `batch_size`. Each process takes its part of every batch. The images of a step depend neither on
    the number of processes nor on the step at which a killed run resumes.

    Args:
        count: number of images.
        batch_size: images per step over all processes.
        rank, world_size: number of this process, and number of processes.

    Raises:
        ValueError: there are no images, or the processes cannot share a batch evenly.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if count < 1:
            raise ValueError("no training images")
        if batch_size % world_size:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared evenly by {world_size} processes"
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop = start, stop
        share = batch_size // world_size
        self.positions = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Sample]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            batch = []
            for position in self.positions:
                place = step * self.batch_size + position
                if place // self.count != epoch:
                    epoch = place // self.count
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
                batch.append(Sample(step, position, int(order[place % self.count])))
            yield batch
