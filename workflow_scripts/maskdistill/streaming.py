"""Background work a bounded number of items ahead: batches of images of one shape, and a map."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Row = TypeVar("Row")
Item = TypeVar("Item")


def stream_batches(
    rows: Iterable[Row],
    load: Callable[[Row], Item],
    *,
    shape: Callable[[Row], Hashable],
    batch_size: int,
    workers: int,
) -> Iterator[list[tuple[Row, Item]]]:
    """Yield batches of (row, loaded item) in which all rows have the same shape.

    Rows are sorted by shape, then in the order of `rows`, whatever `batch_size` and `workers` are.
    At most two batches and one item per worker are held in memory.

    Args:
        load: decodes a row's image; runs in threads.
        shape: what must be equal within a batch; sortable.
    """
    batches = [
        list(batch)
        for _, group in itertools.groupby(sorted(rows, key=shape), key=shape)
        for batch in _chunks(group, batch_size)
    ]
    with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
        pending: collections.deque = collections.deque()
        try:
            for batch in batches:
                pending.append((batch, [pool.submit(load, row) for row in batch]))
                if len(pending) > 1:
                    yield _collect(pending.popleft())
            while pending:
                yield _collect(pending.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def map_ahead(
    pool: concurrent.futures.Executor,
    function: Callable[[Row], Item],
    items: Iterable[Row],
    *,
    ahead: int,
) -> Iterator[Item]:
    """Apply `function` to every item in the pool's threads or processes, in order.

    Unlike `Executor.map`, this takes items only as they are needed.

    Args:
        ahead: number of further items that are computed while a result is used.
    """
    submitted = (pool.submit(function, item) for item in items)
    for future in prefetch(submitted, ahead):
        yield future.result()


def prefetch(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """Yield the items in order, after `ahead` more have been taken from `items`."""
    pending: collections.deque = collections.deque()
    for item in items:
        pending.append(item)
        if len(pending) > ahead:
            yield pending.popleft()
    yield from pending


def _collect(batch: tuple[list, list[concurrent.futures.Future]]) -> list[tuple]:
    rows, futures = batch
    return [(row, future.result()) for row, future in zip(rows, futures, strict=True)]


def _chunks(items: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
