"""Charts as SVG text.

The colours of the SVG's classes (`axis`, `series-0`, `cell`, …) come from the page's style sheet,
so that charts follow its light or dark mode.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape


class Series(NamedTuple):
    """One line of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float] = ()  # standard deviations of the points, drawn as whiskers; () for none


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def line_chart(
    series: Mapping[str, Series],
    *,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float] = (),
    width: int = 520,
    height: int = 260,
) -> Markup:
    """Lines over common axes, as inline SVG.

    Args:
        series: name → points, with ascending x; the y axis starts at 0 or below.
        x_ticks: values to label on the x axis; () for round numbers.
    """
    left, right, top, bottom = 52, 14, 12, 40
    all_x = [x for line in series.values() for x in line.x]
    all_y = [y for line in series.values() for y in line.y]
    all_y += [
        end for line in series.values() for y, sd in _whiskers(line) for end in (y - sd, y + sd)
    ]
    x_low, x_high = min(all_x), max(all_x)
    x_ticks = x_ticks or nice_ticks(x_low, x_high)
    if x_low == x_high:  # puts a single point in the middle
        x_low -= 0.5
        x_high += 0.5
    y_low, y_high = min(0.0, *all_y), max(all_y)
    x_span, y_span = x_high - x_low, (y_high - y_low) * 1.04 or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / x_span * (width - left - right),
            height - bottom - (y - y_low) / y_span * (height - top - bottom),
        )

    parts = []
    for tick in nice_ticks(y_low, y_low + y_span):
        _, y = at(x_low, tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" ')
        parts.append(f'y2="{y:.1f}"/><text class="tick" text-anchor="end" x="{left - 8}" ')
        parts.append(f'y="{y + 4:.1f}">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = at(tick, y_low)
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" ')
        parts.append(f'y="{height - bottom + 18}">{tick:,g}</text>')
    for i, line in enumerate(series.values()):
        points = " ".join(
            "{:.1f},{:.1f}".format(*at(x, y)) for x, y in zip(line.x, line.y, strict=True)
        )
        parts.append(f'<polyline class="series series-{i}" points="{points}"/>')
        for x, (y, sd) in zip(line.x, _whiskers(line), strict=bool(line.sd)):
            (middle, low), (_, high) = at(x, y - sd), at(x, y + sd)
            ends = f"{middle:.1f},{low:.1f} {middle:.1f},{high:.1f}"
            parts.append(f'<polyline class="series series-{i}" points="{ends}"/>')
            parts.append(f'<circle class="series series-{i}" cx="{middle:.1f}" ')
            parts.append(f'cy="{(low + high) / 2:.1f}" r="3"/>')
    middle = (height - bottom + top) / 2
    parts.append(f'<text class="axis" text-anchor="middle" x="{(width + left - right) / 2}" ')
    parts.append(f'y="{height - 4}">{escape(x_label)}</text>')
    parts.append(f'<text class="axis" text-anchor="middle" x="14" y="{middle}" ')
    parts.append(f'transform="rotate(-90 14 {middle})">{escape(y_label)}</text>')
    return _svg("chart", width, height, f"{y_label} over {x_label}", parts)


def _whiskers(line: Series) -> list[tuple[float, float]]:
    return list(zip(line.y, line.sd, strict=True)) if line.sd else []


def stacked(panels: Sequence[tuple[str, Sequence[str], Markup]]) -> str:
    """Charts below each other as one SVG document with its own colours.

    Args:
        panels: title (lines of at most 60 characters), names of the series, and result of
            `line_chart` in its default size.
    """
    width, height = 540, 0
    parts = []
    for title, names, chart in panels:
        lines = title.split("\n")
        legend = 20 + 18 * len(lines)
        parts.append(f'<g transform="translate(10 {height})">')
        for i, line in enumerate(lines):
            parts.append(f'<text class="title" x="4" y="{22 + 18 * i}">{escape(line)}</text>')
        for j, name in enumerate(names):
            x = 8 + 110 * j
            ends = f"{x},{legend} {x + 18},{legend}"
            parts.append(f'<polyline class="series series-{j}" points="{ends}"/>')
            parts.append(f'<text class="axis" x="{x + 24}" y="{legend + 4}">{escape(name)}</text>')
        parts.append(f'<g transform="translate(0 {legend + 14})">{chart}</g></g>')
        height += legend + 292
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


_STYLE = (
    "text{font:12px sans-serif;fill:#5c6670}.title{font-size:14px;font-weight:600;fill:#1d2126}"
    ".grid{stroke:#e1e4e6}.series{fill:none;stroke-width:2}circle.series{fill:#fff}"
    ".series-0{stroke:#0f6c7c}.series-1{stroke:#c2622d}.series-2{stroke:#6a4fa3}"
)


def heat_map(values: np.ndarray, row_names: Sequence[str], column_names: Sequence[str]) -> Markup:
    """A table of shares as inline SVG, in which cells with greater shares are more opaque.

    Args:
        values: rows x columns, 0..1. Cells below 0.5 % are empty. With up to 30 columns, cells
            show their value in percent.
    """
    cell = 30 if len(column_names) <= 30 else 12
    font = min(12.0, cell * 0.8)
    left = 12 + 0.62 * font * max(map(len, row_names))
    top = 12 + 0.5 * font * max(map(len, column_names))
    # Column names are rotated by 45 degrees and need space to the right.
    width = left + cell * len(column_names) + top
    height = top + cell * len(row_names) + 4
    parts = [f'<g style="font-size:{font:.1f}px">']
    for column, name in enumerate(column_names):
        x, y = left + (column + 0.5) * cell, top - 6
        parts.append(f'<text class="name" x="{x:.1f}" y="{y:.1f}" ')
        parts.append(f'transform="rotate(-45 {x:.1f} {y:.1f})">{escape(name)}</text>')
    for row, name in enumerate(row_names):
        y = top + row * cell
        parts.append(f'<text class="name" text-anchor="end" x="{left - 6:.1f}" ')
        parts.append(f'y="{y + cell / 2 + font / 3:.1f}">{escape(name)}</text>')
        parts.append(f'<rect class="frame" x="{left:.1f}" y="{y:.1f}" ')
        parts.append(f'width="{cell * len(column_names) - 1}" height="{cell - 1}"/>')
        for column, value in enumerate(values[row].tolist()):
            x = left + column * cell
            if value < 0.005:
                continue
            parts.append(f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell - 1}" ')
            parts.append(f'height="{cell - 1}" fill-opacity="{value:.3f}">')
            column_name = escape(column_names[column])
            parts.append(f"<title>{escape(name)} → {column_name}: {value:.1%}</title></rect>")
            if cell == 30:
                tone = "value-on-dark" if value > 0.55 else "value"
                parts.append(f'<text class="{tone}" text-anchor="middle" ')
                parts.append(f'x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 4:.1f}">')
                parts.append(f"{100 * value:.0f}</text>")
    parts.append("</g>")
    return _svg("heat-map", width, height, "confusion matrix", parts)


def bars(counts: Sequence[int], low: float, high: float, label: str) -> Markup:
    """A small histogram with equal bins as inline SVG.

    Args:
        counts: number of values in each bin; bars of at least one value are always visible.
        low, high: lower end of the first bin, and upper end of the last bin.
        label: what was counted.
    """
    width, height, base = 190, 62, 36
    step, highest = width / len(counts), max(*counts, 1)
    parts = []
    for number, count in enumerate(counts):
        if count:
            tall = max(1.0, (base - 2) * count / highest)
            parts.append(
                f'<rect x="{number * step + 0.5:.1f}" y="{base - tall:.1f}" '
                f'width="{step - 1:.1f}" height="{tall:.1f}"/>'
            )
    parts.append(f'<line class="grid" x1="0" y1="{base}" x2="{width}" y2="{base}"/>')
    for x, anchor, text in ((0, "start", f"{low:g}"), (width, "end", f"{high:.3g}")):
        parts.append(f'<text x="{x}" y="{base + 12}" text-anchor="{anchor}">{text}</text>')
    parts.append(
        f'<text x="{width / 2}" y="{base + 24}" text-anchor="middle">{escape(label)}</text>'
    )
    return _svg("bars", width, height, label, parts)


def _svg(kind: str, width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    # `Markup` is not escaped again; `parts` consist of numbers and of text that is escaped already.
    return Markup(
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"{''.join(parts)}</svg>"
    )
