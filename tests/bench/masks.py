"""Masks without the N x N affinities, compared with them; RLE, compared with polygons."""

from collections.abc import Iterator

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from tests.bench import Row, median_seconds
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

GRID = (40, 54)
HEADS, WIDTH, TOP_K = 6, 384, 0.4
SIZE = (375, 500)  # (height, width) of a photograph of PASCAL VOC


def rows() -> Iterator[Row]:
    """Milliseconds per image, at the paper's image size."""
    yield construction()
    yield encoding()


def construction() -> Row:
    """Time to compute a mask on the patch grid from keys and affinities."""
    generator = np.random.default_rng(0)
    patches = GRID[0] * GRID[1]
    # Keys of an object and of its background, with noise.
    inside = np.zeros(GRID, bool)
    inside[10:30, 12:40] = True
    prototypes = generator.normal(size=(2, WIDTH))
    keys = prototypes[inside.ravel().astype(int)] + generator.normal(size=(patches, WIDTH))
    keys = keys.astype(np.float16)
    cls_affinity = (keys @ prototypes[1])[None].repeat(HEADS, axis=0).astype(np.float16)

    def linear() -> np.ndarray:
        return affinity.object_masks(keys, cls_affinity, GRID, MaskSettings(top_k=TOP_K))[0].grid

    assert (linear().ravel() == quadratic(keys, cls_affinity)).all()
    # One thread, as in the jobs of make_masks: these products are too small for several threads.
    with threadpool_limits(1, user_api="blas"):
        seconds = median_seconds(linear, repeats=20)
    return Row(
        what=f"mask of {patches:,} patches",
        value=1000 * seconds,
        unit="ms",
        reference=1000 * median_seconds(lambda: quadratic(keys, cls_affinity)),
        against="N x N affinity of Eq. 2, head by head",
        at_most=1 / 100,
    )


def quadratic(keys: np.ndarray, cls_affinity: np.ndarray) -> np.ndarray:
    """The mask by the paper's formula: the whole matrix A_I, then the sum of its rows in P'."""
    by_head = keys.astype(np.float32).reshape(len(keys), HEADS, -1).transpose(1, 0, 2)
    matrix = np.mean([k @ k.T for k in by_head], axis=0)
    average = cls_affinity.astype(np.float32).mean(axis=0)
    ranked = np.argsort(-average, kind="stable")
    proposals = ranked[: max(1, round(TOP_K * len(keys)))]
    voters = proposals[matrix[ranked[0], proposals] > 0]
    return matrix[voters].sum(axis=0) > 0


def encoding() -> Row:
    """Time to encode a mask with ragged borders as it is stored (RLE)."""
    grid = np.zeros(GRID, bool)
    grid[10:30, 12:40] = True
    grid ^= np.random.default_rng(0).random(GRID) < 0.03
    mask = masks.grid_to_image(grid, patch_size=16, resized=(640, 853), size=SIZE)

    def polygons() -> list[list[float]]:
        found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
        return [contour.ravel().tolist() for contour in found]

    return Row(
        what=f"encoding of a mask of {SIZE[0]} x {SIZE[1]}",
        value=1000 * median_seconds(lambda: masks.encode(mask), repeats=50),
        unit="ms",
        reference=1000 * median_seconds(polygons, repeats=50),
        against="polygons by OpenCV's findContours, as lists",
        at_most=1,
    )
