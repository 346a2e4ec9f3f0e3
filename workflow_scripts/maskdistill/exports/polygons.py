"""Masks to polygons along the borders of their pixels.

Points are (x, y) in pixels from the upper left corner of the image; the centre of the first pixel
is (0.5, 0.5). Without simplification a polygon encloses the centres of exactly the mask's pixels.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def trace(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """One ring for every 4-connected part of a mask.

    Holes are joined to their ring by a cut of no width, which even-odd and non-zero filling leave
    open alike.

    Args:
        mask: H x W bool.
        tolerance: the most, in pixels, that simplification moves a border.

    Returns:
        Rings of n x 2 float64, the first point not repeated; parts in the order of their rows.
    """
    parts, _ = ndimage.label(mask)
    outer: dict[int, np.ndarray] = {}
    holes = defaultdict(list)
    for ring, pixel in _rings(mask):
        part = int(parts[pixel])
        if _signed_area(ring) > 0:
            simple = simplify(ring, tolerance)
            # What would vanish stays as it is.
            outer[part] = simple if len(simple) >= 3 else ring
        elif len(simple := simplify(ring, tolerance)) >= 3:
            holes[part].append(simple)
    return [join([ring, *holes[part]]) for part, ring in sorted(outer.items())]


def join(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Rings to one, by cuts of no width between their nearest points."""
    result = rings[0]
    for ring in rings[1:]:
        distances = ((result[:, None] - ring[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(ring, -j, axis=0)
        result = np.concatenate([result[: i + 1], around, around[:1], result[i:]])
    return result


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Leave out points of a ring (Douglas and Peucker, 1973).

    Args:
        ring: n x 2.
        tolerance: pixels that a point left out may lie off the new border; 0 keeps all points.
    """
    if tolerance <= 0 or len(ring) < 4:
        return ring
    # Two points far apart stay for sure, and divide the ring into two lines.
    start = int(((ring - ring.mean(axis=0)) ** 2).sum(axis=1).argmax())
    ring = np.roll(ring, -start, axis=0)
    middle = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), dtype=bool)
    kept[[0, middle]] = True
    waiting = [(0, middle), (middle, len(ring))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            split = first + 1 + farthest
            kept[split] = True
            waiting += [(first, split), (split, last)]
    return ring[kept[:-1]]


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distances of points to the stretch from `start` to `end`."""
    direction = end - start
    length = float(direction @ direction)
    along = np.clip((points - start) @ direction / length, 0, 1) if length else 0.0
    nearest = start + np.multiply.outer(np.broadcast_to(along, len(points)), direction)
    return np.sqrt(((points - nearest) ** 2).sum(axis=1))


def _signed_area(ring: np.ndarray) -> float:
    """Positive for a ring that has its inside on the right (rows count downwards)."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _rings(mask: np.ndarray) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Closed walks along pixel borders, inside on the right, and a pixel inside next to each."""
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    # By the side of the pixel that is a border: from and to, relative to its upper left corner.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left
    )
    steps: dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, int]]]] = defaultdict(list)
    for neighbour, (x0, y0), (x1, y1) in sides:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            start = (column + x0, row + y0)
            steps[start].append(((column + x1, row + y1), (row, column)))
    rings = []
    while steps:
        start = next(iter(steps))
        points, at, heading, pixel = [], start, None, None
        while True:
            ways = steps[at]
            way = 0
            if len(ways) > 1 and heading is not None:
                # Where two parts meet at a corner, the right turn stays with the part at hand.
                right = (-heading[1], heading[0])
                way = next(i for i, (to, _) in enumerate(ways) if _heading(at, to) == right)
            to, pixel = ways.pop(way)
            if not ways:
                del steps[at]
            if heading != (heading := _heading(at, to)):
                points.append(at)
            at = to
            if at == start:
                break
        # The first point is no corner when the walk began in the middle of a straight border.
        if len(points) > 1 and _heading(points[0], points[1]) == heading:
            points = points[1:]
        rings.append((np.array(points, dtype=np.float64), pixel))
    return rings


def _heading(start: tuple[int, int], end: tuple[int, int]) -> tuple[int, int]:
    return int(np.sign(end[0] - start[0])), int(np.sign(end[1] - start[1]))
