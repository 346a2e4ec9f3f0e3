"""Background work a bounded number of items and pixels ahead: batches of images, and a map."""

import collections
import concurrent.futures
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Row = TypeVar("Row")
Item = TypeVar("Item")

# The most pixels that a network sees in one pass: eight images of 640 x 800. A ResNet-50 of output
# stride 8 needs about 0.6 GB per million of them.
PIXELS_PER_PASS = 2**22
# The most pixels of images that are decoded, or processed pixel by pixel, at the same time.
# Decoding needs about 15 bytes for each.
PIXELS_AHEAD = 2**26


def stream_batches(
    rows: Iterable[Row],
    load: Callable[[Row], Item],
    *,
    shape: Callable[[Row], tuple[int, int]],
    batch_size: int,
    workers: int,
    pixels: Callable[[Row], int] | None = None,
    decoded: Callable[[Row], int] | None = None,
) -> Iterator[list[tuple[Row, Item]]]:
    """Yield batches of (row, loaded item) in which all rows have the same shape.

    Rows are sorted by shape, then in the order of `rows`, whatever `batch_size` and `workers` are.
    While a batch is used, the next one is loaded. Memory is bounded by pixels, not by the number
    of images: a batch has at most `PIXELS_PER_PASS`, and images of at most `PIXELS_AHEAD` are
    loaded ahead, but always at least one image.

    Args:
        load: decodes a row's image; runs in threads.
        shape: (height, width) in pixels that must be equal within a batch.
        batch_size: the most rows in a batch.
        pixels: pixels of a row's image as the network sees it; None for those of `shape`.
        decoded: pixels of a row's image while it is decoded; None if it has those of `pixels`.
    """
    pixels = pixels or (lambda row: math.prod(shape(row)))
    batches = [
        batch
        for _, group in itertools.groupby(sorted(rows, key=shape), key=shape)
        for batch in _bounded(group, pixels, batch_size, PIXELS_PER_PASS)
    ]
    with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
        loaded = map_ahead(
            pool,
            load,
            itertools.chain.from_iterable(batches),
            ahead=max(map(len, batches), default=0),
            weight=decoded or pixels,
            most_weight=PIXELS_AHEAD,
        )
        try:
            for batch in batches:
                yield list(zip(batch, itertools.islice(loaded, len(batch)), strict=True))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def map_ahead(
    pool: concurrent.futures.Executor,
    function: Callable[[Row], Item],
    items: Iterable[Row],
    *,
    ahead: int,
    weight: Callable[[Row], int] | None = None,
    most_weight: float = math.inf,
) -> Iterator[Item]:
    """Apply `function` to every item in the pool's threads or processes, in order.

    Unlike `Executor.map`, this takes items only as they are needed.

    Args:
        ahead: number of further items that are computed while a result is used.
        weight: what an item costs in memory, for instance its pixels; None for no bound.
        most_weight: bound on the weight of all items that are being computed or whose results
            wait to be used. A single item may exceed it; it is then the only one.
    """
    pending: collections.deque[tuple[concurrent.futures.Future, int]] = collections.deque()
    total = 0

    def first() -> Item:
        nonlocal total
        future, freed = pending.popleft()
        total -= freed
        return future.result()

    for item in items:
        own = weight(item) if weight else 0
        while pending and total + own > most_weight:
            yield first()
        pending.append((pool.submit(function, item), own))
        total += own
        if len(pending) > ahead:
            yield first()
    while pending:
        yield first()


def prefetch(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """Yield the items in order, after `ahead` more have been taken from `items`."""
    pending: collections.deque = collections.deque()
    for item in items:
        pending.append(item)
        if len(pending) > ahead:
            yield pending.popleft()
    yield from pending


def _bounded(
    items: Iterable[Row], weight: Callable[[Row], int], most: int, most_weight: int
) -> Iterator[list[Row]]:
    """Cut items into lists of at most `most` items and `most_weight`, at least one item each."""
    chunk: list[Row] = []
    total = 0
    for item in items:
        own = weight(item)
        if chunk and (len(chunk) == most or total + own > most_weight):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += own
    if chunk:
        yield chunk
