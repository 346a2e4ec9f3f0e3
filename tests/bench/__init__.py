"""Measurements, one module a stage: python -m tests.bench [MODULE …]. No part of `make test`."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    value: float  # ours
    unit: str
    reference: float | None = None  # in the same unit
    against: str = ""  # what the reference is
    # A bound on value / reference: at most, for times; None judges nothing.
    at_most: float | None = None
    # For resources/throughput.json: the rule whose seconds `value` is, and what it is per.
    rule: str = ""
    per: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference."""
        return None if self.reference is None else self.value / self.reference

    @property
    def holds(self) -> bool:
        """Whether the bound, if there is one, is kept."""
        return self.at_most is None or self.ratio is None or self.ratio <= self.at_most


def median_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Median time of `call` in seconds, after one call that is not counted."""
    return alternating_seconds(call, repeats=repeats)[0]


def alternating_seconds(
    *calls: Callable[[], object], repeats: int = 5, warm_up: bool = True
) -> tuple[float, ...]:
    """Median time of each call; they take turns, so that all see the machine's good and bad times.

    Args:
        warm_up: whether one call of each is not counted.
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
