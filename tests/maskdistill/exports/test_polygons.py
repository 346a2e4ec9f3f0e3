import numpy as np
import pytest
from pycocotools import mask as coco_mask

from workflow_scripts.maskdistill.exports import polygons


def fill(rings, size):
    """Even-odd filling at pixel centres, written independently of the tracing."""
    height, width = size
    inside = np.zeros(size, dtype=bool)
    x = np.arange(width) + 0.5
    for y in range(height):
        crossings = np.zeros(width, dtype=int)
        for ring in rings:
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                    crossings += x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0) > x
        inside[y] = crossings % 2 == 1
    return inside


def disc(size, centre, radius):
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


SHAPES = {
    "pixel": np.eye(1, dtype=bool),
    "whole image": np.ones((5, 7), bool),
    "two discs": disc((60, 80), (20, 20), 12) | disc((60, 80), (40, 60), 9),
    "ring": disc((60, 80), (30, 40), 25) & ~disc((60, 80), (30, 40), 10),
    "two holes": disc((60, 80), (30, 40), 28)
    & ~disc((60, 80), (24, 30), 7)
    & ~disc((60, 80), (36, 52), 6),
    "corners that touch": np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool),
    "hole that touches": np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool),
    "noise": np.random.default_rng(0).random((24, 31)) < 0.5,
}


@pytest.mark.parametrize("name", SHAPES)
def test_without_tolerance_a_polygon_is_the_mask(name):
    mask = SHAPES[name]
    rings = polygons.trace(mask)
    np.testing.assert_array_equal(fill(rings, mask.shape), mask)
    np.testing.assert_array_equal(fill([polygons.join(rings)], mask.shape), mask)


def test_one_ring_a_part_and_no_needless_points():
    rings = polygons.trace(SHAPES["two discs"])
    assert len(rings) == 2
    (square,) = polygons.trace(np.ones((3, 4), bool))
    assert sorted(square.tolist()) == [[0, 0], [0, 3], [4, 0], [4, 3]]
    assert polygons.trace(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize("name", ["two discs", "ring", "two holes"])
def test_simplification_keeps_its_bound(name):
    mask = SHAPES[name]
    exact, simple = polygons.trace(mask), polygons.trace(mask, 1.0)
    assert sum(map(len, simple)) < 0.5 * sum(map(len, exact))
    assert iou(fill(simple, mask.shape), mask) > 0.9
    for ring in exact:
        closest = np.concatenate(simple)
        simplified = polygons.simplify(ring, 1.0)
        for point in ring:
            ends = np.roll(simplified, -1, axis=0)
            distances = [
                polygons._distances(point[None], a, b)[0]
                for a, b in zip(simplified, ends, strict=True)
            ]
            assert min(distances) <= 1.0
        assert len(closest)


@pytest.mark.parametrize("name", ["two discs", "ring", "two holes", "whole image"])
def test_pycocotools_fills_them_alike(name):
    mask = SHAPES[name]
    flat = [ring.ravel().tolist() for ring in polygons.trace(mask)]
    found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *mask.shape)))
    assert iou(found.astype(bool), mask) > 0.97
