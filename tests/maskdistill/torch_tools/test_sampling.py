import contextlib
import itertools
import multiprocessing

import numpy as np
import pytest
from torch.utils.data import DataLoader

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.sampling import (
    BatchPlan,
    Sample,
    batches_of,
    ignore_sigterm,
)


def plan(**options):
    return list(
        BatchPlan(**({"count": 10, "batch_size": 4, "seed": 3, "start": 0, "stop": 10} | options))
    )


def test_every_epoch_is_a_permutation_of_its_own():
    order = [sample.index for batch in plan() for sample in batch]

    epochs = [order[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_places_are_numbered():
    places = [(sample.step, sample.position) for batch in plan() for sample in batch]

    assert places == list(itertools.product(range(10), range(4)))


def test_a_plan_entered_late_is_the_rest_of_the_whole():
    assert plan(start=7) == plan()[7:]
    assert plan(start=10) == []
    assert len(BatchPlan(10, 4, seed=3, start=7, stop=10)) == 3
    assert len(BatchPlan(10, 4, seed=3, start=12, stop=10)) == 0


def test_the_seed_decides_the_order():
    assert plan() == plan()
    assert plan(seed=4) != plan()


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_every_batch(world_size):
    shares = [plan(rank=rank, world_size=world_size) for rank in range(world_size)]

    together = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == plan()
    assert {len(part) for share in shares for part in share} == {4 // world_size}


def test_a_batch_larger_than_the_data_set_goes_round():
    (batch,) = plan(count=3, batch_size=7, stop=1)

    counts = np.bincount([sample.index for sample in batch])
    assert sorted(counts) == [2, 2, 3]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="no training images"):
        plan(count=0)
    with pytest.raises(ValueError, match="shared evenly"):
        plan(world_size=3)


def test_a_place_has_random_numbers_of_its_own():
    def draw(*place, seed=1):
        return Sample(*place).generator(seed).random()

    assert draw(5, 2, 7) == draw(5, 2, 7)
    # Random numbers depend on step and position, not on which image is there.
    assert draw(5, 2, 7) == draw(5, 2, 8)
    assert len({draw(5, 2, 0), draw(5, 3, 0), draw(6, 2, 0), draw(5, 2, 0, seed=2)}) == 4


class Numbers:
    def __getitem__(self, sample):
        return sample.step, sample.index, sample.generator(0).random()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers):
    def items(count):
        batches = BatchPlan(10, 4, seed=3, start=2, stop=6)
        return list(
            DataLoader(Numbers(), batch_sampler=batches, num_workers=count, collate_fn=list)
        )

    assert items(workers) == items(0)


class Broken(Numbers):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3:
            raise InputError("3.png: gone")
        return index


def use(loader, stop):
    with contextlib.closing(batches_of(loader)) as batches:
        for batch in batches:
            if batch == stop:
                raise InputError("the trainer's own")


@pytest.mark.parametrize(("stop", "message"), [(1, "the trainer's own"), (8, r"3\.png: gone")])
def test_loading_processes_end_with_an_error_that_is_still_held(stop, message):
    before = multiprocessing.active_children()
    loader = DataLoader(Broken(), num_workers=1, worker_init_fn=ignore_sigterm)
    with pytest.raises(InputError, match=f"^{message}$") as held:
        use(loader, stop)
    assert held.value.__traceback__ is not None
    assert multiprocessing.active_children() == before
