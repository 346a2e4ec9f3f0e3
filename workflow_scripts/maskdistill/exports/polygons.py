"""Conversion of masks to polygons along the borders of their pixels.

Points are (x, y) in pixels from the upper left corner of the image; the centre of the first pixel
is (0.5, 0.5). Without simplification a polygon encloses the centres of exactly the mask's pixels.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from scipy import ndimage


def trace(mask: np.ndarray, tolerance: float = 0.0) -> list[np.ndarray]:
    """One ring for every 4-connected part of a mask.

    Holes are joined to their ring by cuts of zero width. They stay open if the polygon is filled by
    the even-odd or by the non-zero rule.

    Args:
        mask: H x W bool.
        tolerance: largest distance in pixels by which simplification moves a border.

    Returns:
        Rings of n x 2 float64 without repeating the first point; parts in the order of their rows.
    """
    parts, _ = ndimage.label(mask)
    outer: dict[int, np.ndarray] = {}
    holes = defaultdict(list)
    for ring, is_hole in sorted(_rings(mask), key=lambda item: item[0][0, ::-1].tolist()):
        column, row = ring[0].astype(int)
        simple = simplify(ring, tolerance)
        if not is_hole:
            # A part that simplification would reduce to fewer than three points is kept as it is.
            outer[parts[row, column]] = simple if len(simple) >= 3 else ring
        elif len(simple) >= 3:
            holes[parts[row, column]].append(simple)
    return [join([ring, *holes[part]]) for part, ring in sorted(outer.items())]


def join(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Join rings to one by cuts of zero width between their nearest points."""
    result = rings[0]
    for ring in rings[1:]:
        distances = ((result[:, None] - ring[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(ring, -j, axis=0)
        result = np.concatenate([result[: i + 1], around, around[:1], result[i:]])
    return result


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Remove points of a ring (Douglas and Peucker, 1973).

    Args:
        ring: n x 2.
        tolerance: largest distance in pixels of a removed point from the new border; 0 keeps all.
    """
    if tolerance <= 0 or len(ring) < 4:
        return ring
    # Two distant points are kept and divide the ring into two lines.
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
    """Distances of points to the line segment from `start` to `end`."""
    direction = end - start
    length = float(direction @ direction)
    along = np.clip((points - start) @ direction / length, 0, 1) if length else 0.0
    nearest = start + np.multiply.outer(np.broadcast_to(along, len(points)), direction)
    return np.sqrt(((points - nearest) ** 2).sum(axis=1))


def _rings(mask: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    """The borders of all 4-connected parts of a mask and of their holes.

    OpenCV joins pixels that touch at a corner. To separate the parts of the mask, its background is
    traced: borders around it are holes of the mask, and borders of its holes are parts. OpenCV's
    contours run through the centres of pixels. In an image of twice the size, such a centre is next
    to one corner of the original pixel, and the border runs through these corners.

    Yields:
        A ring of n x 2 float64 (x, y) with the mask on its right, and whether it is a hole. Its
        first point is the uppermost, then leftmost corner where the border goes to the right.
    """
    background = np.pad(~mask.astype(bool), 1, constant_values=True).astype(np.uint8)
    doubled = background.repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for contour, (*_, parent) in zip(contours, tree[0], strict=True):
        is_hole = parent < 0
        walk = (contour[:, 0] + 1) // 2 - 1
        if is_hole and walk.min() < 0:  # the frame of the whole image
            continue
        walk = walk[(walk != np.roll(walk, 1, axis=0)).any(axis=1)]
        steps = np.roll(walk, -1, axis=0) - walk
        # Points at which the border changes direction.
        ring = walk[(steps != np.roll(steps, 1, axis=0)).any(axis=1)]
        if (_signed_area(ring) > 0) == is_hole:
            ring = ring[::-1]
        (rightwards,) = np.nonzero(np.roll(ring, -1, axis=0)[:, 0] > ring[:, 0])
        first = min(rightwards, key=lambda i: (ring[i, 1], ring[i, 0]))
        yield np.roll(ring, -first, axis=0).astype(np.float64), is_hole


def _signed_area(ring: np.ndarray) -> float:
    """Positive for a ring with its inside on the right (y points downwards)."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
