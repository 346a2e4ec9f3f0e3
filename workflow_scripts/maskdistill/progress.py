"""Progress bars that read well on a terminal and in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
LOG_INTERVAL = 10.0  # seconds between two lines of a log


class _Lines:
    """Writes each redrawn state of a bar as a separate line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress_bar(*, total: int | None, description: str, unit: str, initial: int = 0) -> tqdm:
    """A bar on stderr: redrawn in place on a terminal, one line every ten seconds elsewhere."""
    if sys.stderr.isatty():
        return tqdm(total=total, desc=description, unit=unit, initial=initial, dynamic_ncols=True)
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        file=_Lines(sys.stderr),
        mininterval=LOG_INTERVAL,
        maxinterval=LOG_INTERVAL,
        ncols=90,
        ascii=True,
    )


def progress(
    items: Iterable[T], *, description: str, unit: str, total: int | None = None
) -> Iterator[T]:
    """Iterate over `items` and show a `progress_bar`."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    with progress_bar(total=total, description=description, unit=unit) as bar:
        for item in items:
            yield item
            bar.update()
