"""Tables and small charts in plain text, for a terminal."""

import math
from collections.abc import Sequence

import numpy as np

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def plain(text: object) -> str:
    """Text of a file, made safe to print by escaping control characters."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def number(value: float | None, *, grouped: bool = True) -> str:
    """A number with about four significant digits as text; integers have all digits."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}" if grouped else str(int(value))
    if abs(value) >= 1000:
        return f"{value:,.0f}" if grouped else f"{value:.1f}"
    return f"{value:.4g}" if abs(value) >= 1e-4 else f"{value:.2e}"


def size(count: int) -> str:
    """A number of bytes, with a unit."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}" if units[0] != "bytes" else f"{count} bytes"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    indent: int = 2,
    width: int = 48,
    grouped: bool = True,
) -> list[str]:
    """Aligned lines: numbers to the right, other cells to the left.

    Args:
        rows: cells as text, or as numbers, which are formatted by `number`.
        width: largest width of a cell; longer ones are truncated and end in "…".
        grouped: whether commas separate thousands; not for ids, which users copy.
    """
    kinds = [
        any(isinstance(row[i], int | float | np.number) for row in rows) for i in range(len(header))
    ]
    cells = [list(header)] + [[_cell(cell, width, grouped) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(w) if right else cell.ljust(w)
            for cell, w, right in zip(line, widths, kinds, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("─" * w for w in widths))
    return [" " * indent + line for line in lines]


def _cell(value: object, width: int, grouped: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number | None):
        text = plain(value)
        return text if len(text) <= width else text[: width - 1] + "…"
    return number(value, grouped=grouped)


def facts(pairs: Sequence[tuple[str, object]], *, indent: int = 2) -> list[str]:
    """Names and values in two columns."""
    widest = max((len(name) for name, _ in pairs), default=0)
    return [f"{' ' * indent}{name.ljust(widest)}  {plain(value)}" for name, value in pairs]


def histogram(values: np.ndarray, bins: int = 20) -> str:
    """Histogram from the smallest to the largest value, one character per bin.

    Bins that are not empty have at least the lowest block; empty text for fewer than two different
    values.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size or finite.min() == finite.max():
        return ""
    counts, _ = np.histogram(finite, bins)
    heights = np.ceil(counts / counts.max() * (len(_BLOCKS) - 1)).astype(int)
    return "".join(_BLOCKS[height] for height in heights)


def trend(values: np.ndarray) -> str:
    """A sequence with one character per value, whose height shows the value."""
    finite = np.isfinite(values)
    if not finite.any():
        return "?" * len(values)
    low, high = values[finite].min(), values[finite].max()
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[1 + round((value - low) / ((high - low) or 1) * (top - 1))] if ok else "?"
        for value, ok in zip(values.tolist(), finite, strict=True)
    )


def bar(share: float, width: int = 24) -> str:
    """A bar of up to `width` characters for a share of 0..1, exact to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
