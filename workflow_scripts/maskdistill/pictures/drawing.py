"""Pictures and figures of the report: small pure functions on uint8 arrays, and SVG as text.

The SVG has no colours of its own: classes (`axis`, `series-0`, `cell`, …) leave them to the page's
style sheet, so that figures follow its light or dark mode.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from workflow_scripts.maskdistill.files import images, masks

FADED = 0.82  # how far pixels outside of a mask go towards FADED_TO
FADED_TO = 128


def thumbnail(image: np.ndarray, longer_side: int) -> np.ndarray:
    """Scale an H x W x 3 uint8 image down to `longer_side` pixels; smaller ones stay."""
    height, width = image.shape[:2]
    return images.resize(image, _thumbnail_size(height, width, longer_side))


def thumbnail_labels(labels: np.ndarray, longer_side: int) -> np.ndarray:
    """Scale an H x W label map as `thumbnail` scales its image, by nearest neighbour."""
    return masks.resize_mask(labels, _thumbnail_size(*labels.shape, longer_side))


def _thumbnail_size(height: int, width: int, longer_side: int) -> tuple[int, int]:
    scale = min(1.0, longer_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def contours(labels: np.ndarray) -> np.ndarray:
    """Pixels that have a neighbour of another label, above, below, left or right.

    Args:
        labels: H x W, integers or bool.

    Returns:
        H x W bool; the lines are two pixels wide, one on either side of the border.
    """
    edges = np.zeros(labels.shape, dtype=bool)
    vertical = labels[1:] != labels[:-1]
    horizontal = labels[:, 1:] != labels[:, :-1]
    edges[1:] |= vertical
    edges[:-1] |= vertical
    edges[:, 1:] |= horizontal
    edges[:, :-1] |= horizontal
    return edges


def overlay(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, *, alpha: float = 0.6
) -> np.ndarray:
    """Lay a label map over its image, with a contour around every region.

    Args:
        image: H x W x 3 uint8.
        labels: H x W integers; 0 is not painted, only paled.
        colours: N x 3 uint8, label → colour.
        alpha: share of the colour within a region, 0..1; the contour is nearly white.

    Returns:
        H x W x 3 uint8.
    """
    inside = labels > 0
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    # Without the image's own colours, those of the labels can be told apart.
    result = np.where(inside[..., None], grey, 0.2 * image + 0.8 * grey)
    colour = colours[labels].astype(np.float64)
    result[inside] = (1 - alpha) * result[inside] + alpha * colour[inside]
    edge = contours(labels) & inside
    result[edge] = 0.3 * colour[edge] + 0.7 * 255
    return np.round(result).astype(np.uint8)


def transparent_png(labels: np.ndarray, colours: np.ndarray, *, alpha: float = 0.6) -> bytes:
    """A label map as a layer to lay over its image, coloured and contoured as by `overlay`.

    Args:
        labels: H x W integers; 0 is transparent.
        colours: N x 3 uint8, label → colour; at most 255 different ones.
        alpha: opacity within a region, 0..1; contours are opaque.

    Returns:
        A palette PNG with transparency; beyond 127 colours it has no contours.
    """
    # Labels of one colour share an entry of the palette, however many labels there are.
    packed = (colours.astype(np.int64) << (16, 8, 0)).sum(axis=1) + 1
    packed[0] = 0
    present = np.bincount(labels.ravel(), minlength=len(colours)) > 0
    found = np.unique(packed[present])
    indices = np.searchsorted(found, packed).astype(np.uint8)[labels]
    palette = ((found[:, None] - 1) >> (16, 8, 0)) & 255
    opacity = np.where(found > 0, round(255 * alpha), 0)
    if 2 * len(found) <= 256:
        # A second entry for every colour: its contour.
        indices[contours(labels) & (labels > 0)] += np.uint8(len(found))
        palette = np.concatenate([palette, np.round(0.3 * palette + 0.7 * 255)])
        opacity = np.concatenate([opacity, np.full(len(found), 255)])
    image = Image.fromarray(indices)
    image.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=opacity.astype(np.uint8).tobytes())
    return buffer.getvalue()


def masked_crop(
    image: np.ndarray, mask: np.ndarray, size: int, *, margin: float = 0.08
) -> np.ndarray:
    """Cut a square around a mask; what lies outside of the mask fades to grey.

    Args:
        image: H x W x 3 uint8.
        mask: H x W bool; an empty mask gives the whole image, faded.
        size: side of the result, in pixels.
        margin: space around the mask's box, as a share of its longer side.

    Returns:
        size x size x 3 uint8; parts beyond the image are grey.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        rows, columns = np.arange(mask.shape[0]), np.arange(mask.shape[1])
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    side = math.ceil(max(height, width) * (1 + 2 * margin))
    top = int(rows[0] + height // 2 - side // 2)
    left = int(columns[0] + width // 2 - side // 2)
    window = np.s_[max(top, 0) : top + side, max(left, 0) : left + side]
    part, inside = image[window], mask[window][..., None]
    faded = np.where(inside, part, (1 - FADED) * part + FADED * FADED_TO)
    square = np.full((side, side, 3), FADED_TO, dtype=np.uint8)
    y, x = max(-top, 0), max(-left, 0)
    square[y : y + part.shape[0], x : x + part.shape[1]] = np.round(faded)
    return images.resize(square, (size, size))


def jpeg(image: np.ndarray, *, quality: int = 85, subsampling: int = -1) -> bytes:
    """An H x W x 3 uint8 image as a JPEG; `subsampling` as Pillow has it, 0 for none."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(
        buffer, format="JPEG", quality=quality, optimize=True, subsampling=subsampling
    )
    return buffer.getvalue()


def data_uri(image: np.ndarray | bytes, *, quality: int = 85) -> str:
    """A `data:` URI of an H x W x 3 uint8 image, as a JPEG, or of the bytes of a PNG."""
    kind, data = (
        ("png", image) if isinstance(image, bytes) else ("jpeg", jpeg(image, quality=quality))
    )
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def css_colour(colour: np.ndarray) -> str:
    """An RGB triple, uint8, as `#rrggbb`."""
    return "#" + bytes(colour.tolist()).hex()


class Series(NamedTuple):
    """One line of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float] = ()  # of every point, drawn as a whisker; () for a plain line


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
        series: name → points, with x rising; the y axis starts at 0 or below.
        x_ticks: values to label on the x axis; () for round ones.
    """
    left, right, top, bottom = 52, 14, 12, 40
    all_x = [x for line in series.values() for x in line.x]
    all_y = [y for line in series.values() for y in line.y]
    all_y += [
        end for line in series.values() for y, sd in _whiskers(line) for end in (y - sd, y + sd)
    ]
    x_low, x_high = min(all_x), max(all_x)
    x_ticks = x_ticks or nice_ticks(x_low, x_high)
    if x_low == x_high:  # one point stands in the middle
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
    """Charts under each other as one SVG document with colours of its own.

    Args:
        panels: title of one or more lines of at most 60 characters, names of the series, and
            chart of `line_chart` in its default size.
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
    """A table of shares as inline SVG: the fuller a cell, the greater its share.

    Args:
        values: rows x columns, 0..1; cells below 0.5 % stay empty, and values are written into
            the cells (in percent) up to 30 columns.
    """
    cell = 30 if len(column_names) <= 30 else 12
    font = min(12.0, cell * 0.8)
    left = 12 + 0.62 * font * max(map(len, row_names))
    top = 12 + 0.5 * font * max(map(len, column_names))
    # Column names lean to the right by 45 degrees and need room there.
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


def _svg(kind: str, width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    # `parts` are built above, from numbers and escaped text only.
    return Markup(
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"{''.join(parts)}</svg>"
    )
