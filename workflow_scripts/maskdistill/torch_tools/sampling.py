"""Which image is in which training step: a plan that any process can continue at any step."""

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
    """One place in the training plan; seeds the augmentation of that place."""

    step: int
    position: int  # within the global batch
    index: int  # of the image

    def generator(self, seed: int) -> np.random.Generator:
        """Random numbers for this place: the same whichever process or worker draws them."""
        return np.random.default_rng([seed, self.step, self.position])


def seed_step(seed: int, step: int) -> None:
    """Seed torch's global generator for one step, in the same way in every process.

    What differs between the images of a batch (dropout, sampled anchors, …) is drawn with
    `image_generators`.
    """
    place = np.random.SeedSequence([seed, step])
    torch.manual_seed(int(place.generate_state(1)[0]))


def image_generators(count: int) -> list[np.random.Generator]:
    """A generator of random numbers for each image of this process's part of a batch.

    What it draws depends on the image's position in the global batch, on the state of torch's
    global generator on the CPU and on nothing else: neither on the number of processes nor on the
    device. The global generator moves on, so that every call gives other numbers; all processes
    must make the same calls between two calls of `seed_step`.

    Args:
        count: images of this part, as many as in that of every other process.
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
        data: makes an item of a `Sample`.
        section: of the config, that has the `batch_size`.
        device: where the batches go.
        workers: loading processes; 0 loads in this one.
        collate: from a list of items to a batch; None stacks them.

    Returns:
        A context manager that yields the iterator and ends the loading processes.

    Raises:
        InputError: the processes cannot share a batch.
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
        worker_init_fn=leave_sigterm_to_trainer,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    return contextlib.closing(batches_of(loader))


def leave_sigterm_to_trainer(worker: int) -> None:
    """Let a loading process ignore SIGTERM (a `worker_init_fn`), until the trainer has saved.

    SLURM sends SIGTERM to all processes of a job, and the trainer fails if a loading process ends.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches_of(loader: Iterable) -> Generator:
    """The batches of a `torch.utils.data.DataLoader`; close it (`contextlib.closing`) after use.

    Closing ends the loading processes. Otherwise the traceback of an error would keep them alive,
    and Python would wait for them forever when it exits: it asks them to end by SIGTERM, which
    they ignore (see `leave_sigterm_to_trainer`).

    Raises:
        InputError: the data raised it; without the traceback of the loading process.
    """
    iterator = iter(loader)
    try:
        yield from iterator
    except InputError as error:
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
    finally:
        # PyTorch has no public name for it; loading without processes needs nothing.
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


class BatchPlan:
    """Batch sampler for `torch.utils.data.DataLoader` over steps `start` to `stop` - 1.

    The images are a concatenation of permutations, one per epoch, cut into batches of
    `batch_size`; nothing depends on where a killed run starts again or on the number of
    processes, each of which takes its part of every global batch.

    Args:
        count: number of images.
        batch_size: images of one step over all processes.
        rank, world_size: which of how many processes.

    Raises:
        ValueError: no images, or a batch size that the processes cannot share evenly.
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
