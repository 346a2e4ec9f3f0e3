"""Benchmarks, one module per topic: python -m tests.bench [MODULE …]. `make test` skips them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, a line of the table."""

    what: str
    value: float  # measured for this project
    unit: str
    reference: float | None = None  # what `value` is compared with, in the same unit
    against: str = ""  # description of the reference
    # The largest value / reference for which the benchmark passes; None for no bound.
    at_most: float | None = None
    # For resources/throughput.json: the rule whose seconds are measured, and the unit of its work
    # ("image", "mask", …) that takes these seconds.
    rule: str = ""
    per: str = ""

    @property
    def ratio(self) -> float | None:
        """The value divided by the reference; None without a reference."""
        return None if self.reference is None else self.value / self.reference

    @property
    def holds(self) -> bool:
        """Whether the ratio is within the bound, or there is none."""
        return self.at_most is None or self.ratio is None or self.ratio <= self.at_most


def median_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Median time of `call` in seconds, after one call that is not counted."""
    return alternating_seconds(call, repeats=repeats)[0]


def alternating_seconds(
    *calls: Callable[[], object], repeats: int = 5, warm_up: bool = True
) -> tuple[float, ...]:
    """Median time of each call; calls take turns, so that a slow phase of the machine hits all.

    Args:
        warm_up: whether to make one more call of each before, which is not counted.
    """
    times = []
    for number in range(warm_up + repeats):
        turn = []
        for call in calls:
            start = time.perf_counter()
            call()
            turn.append(time.perf_counter() - start)
        if number >= warm_up:
            times.append(turn)
    return tuple(map(statistics.median, zip(*times, strict=True)))
