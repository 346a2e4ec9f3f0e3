import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from workflow_scripts.maskdistill import streaming
from workflow_scripts.maskdistill.streaming import map_ahead, prefetch, stream_batches

SHAPES = {0: (8, 6), 1: (4, 4), 2: (8, 6), 3: (4, 9), 4: (4, 4), 5: (8, 6), 6: (4, 4), 7: (8, 6)}


def stream(rows=SHAPES, load=str, batch_size=2, workers=2):
    return stream_batches(
        rows,
        load,
        shape=SHAPES.__getitem__,
        pixels=lambda row: math.prod(SHAPES[row]),
        batch_size=batch_size,
        workers=workers,
    )


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_order_depends_on_neither_batch_size_nor_workers(batch_size, workers):
    def load(row):
        time.sleep(0.002 * (row % 3))
        return str(row)

    batches = list(stream(load=load, batch_size=batch_size, workers=workers))
    flat = [item for batch in batches for item in batch]
    assert flat == [(row, str(row)) for row in (1, 4, 6, 3, 0, 2, 5, 7)]
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({SHAPES[row] for row, _ in batch}) == 1


def test_no_rows():
    assert list(stream(rows=[])) == []


def test_exceptions_reach_the_consumer():
    def load(row):
        if row == 3:
            raise OSError("damaged")
        return row

    batches = stream(load=load)
    assert [row for row, _ in next(batches)] == [1, 4]
    assert [row for row, _ in next(batches)] == [6]
    with pytest.raises(OSError, match="damaged"):
        next(batches)


def test_few_batches_are_loaded_ahead_and_none_after_the_end():
    loaded, lock = [], threading.Lock()

    def load(row):
        with lock:
            loaded.append(row)
        return row

    batches = stream_batches(
        range(1000), load, shape=lambda row: 0, pixels=lambda row: 1, batch_size=5, workers=2
    )
    next(batches)
    time.sleep(0.05)
    assert len(loaded) <= 10
    batches.close()
    time.sleep(0.05)
    assert len(loaded) <= 10


@pytest.mark.parametrize("batch_size", [2, 1000])
@pytest.mark.parametrize("workers", [1, 8])
def test_memory_is_bounded_by_pixels_whatever_the_batch_size(monkeypatch, batch_size, workers):
    monkeypatch.setattr(streaming, "PIXELS_PER_PASS", 60)
    monkeypatch.setattr(streaming, "PIXELS_AHEAD", 500)
    lock, ahead, most = threading.Lock(), 0, 0

    def load(row):
        nonlocal ahead, most
        with lock:
            ahead += 10 * row
            most = max(most, ahead)
        return row

    batches = stream_batches(
        [*range(1, 40), 99],
        load,
        shape=lambda row: 0,
        pixels=lambda row: row,
        decoded=lambda row: 10 * row,
        batch_size=batch_size,
        workers=workers,
    )
    found = []
    for batch in batches:
        with lock:
            ahead -= sum(10 * row for row, _ in batch)
        assert sum(row for row, _ in batch) <= 60 or len(batch) == 1
        assert len(batch) <= batch_size
        found += [item for _, item in batch]
    assert found == [*range(1, 40), 99]
    # What is loaded ahead, and the batch that is put together meanwhile; 99 is alone.
    assert most <= max(500 + 600, 990)


@pytest.mark.parametrize("ahead", [1, 100])
def test_map_ahead_bounds_the_weight_of_what_is_not_used_yet(ahead):
    weights = [3, 3, 3, 11, 1, 5, 5, 2, 9]
    submitted, used = [], []
    with ThreadPoolExecutor(4) as pool:
        submit = pool.submit

        def note(function, item):
            submitted.append(item)
            assert sum(submitted) - sum(used) <= max(10, item)
            return submit(function, item)

        pool.submit = note
        for item in map_ahead(
            pool, lambda item: item, weights, ahead=ahead, weight=int, most_weight=10
        ):
            used.append(item)
    assert used == weights


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_map_ahead_keeps_the_order_and_takes_no_more_than_it_needs(ahead):
    taken = []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    def slow(item):
        time.sleep(0.001 * (item % 3))
        return 2 * item

    with ThreadPoolExecutor(3) as pool:
        results = map_ahead(pool, slow, items(), ahead=ahead)
        assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
        assert len(taken) == min(5 + ahead, 20)
        assert list(results) == list(range(10, 40, 2))


def test_map_ahead_raises_what_the_function_raises():
    with ThreadPoolExecutor(2) as pool:
        results = map_ahead(pool, lambda item: 1 // item, [1, 0], ahead=2)
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)


@pytest.mark.parametrize("ahead", [0, 1, 3, 9])
def test_some_are_taken_ahead(ahead):
    taken = []
    given = prefetch((taken.append(i) or i for i in range(6)), ahead)
    for number, item in enumerate(given):
        assert item == number
        assert len(taken) == min(number + ahead + 1, 6)
    assert len(taken) == 6
