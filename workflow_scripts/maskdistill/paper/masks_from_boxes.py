"""Masks made from boxes (Table S1): the whole box, or the object that GrabCut finds in it."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from workflow_scripts.maskdistill.files import label_maps


def box_mask(box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies in a box; H x W bool.

    Args:
        box: XYWH in pixels.
        size: (height, width) of the image.
    """
    x, y, width, height = box
    columns, rows = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    inside = ((rows >= y) & (rows < y + height))[:, None]
    return inside & ((columns >= x) & (columns < x + width))


def grabcut(
    image: np.ndarray, box: tuple[float, float, float, float], *, iterations: int = 5
) -> np.ndarray:
    """Segment the object in a box by OpenCV's GrabCut (Rother et al., 2004).

    GrabCut takes pixels outside of the box as certain background and pixels inside it as possible
    foreground. OpenCV's random numbers are seeded, so that the same image and box give the same
    mask.

    Args:
        image: H x W x 3 uint8.
        box: XYWH in pixels.
        iterations: number of GrabCut iterations.

    Returns:
        H x W bool; the whole box if it fills the image or if GrabCut finds no foreground.
    """
    whole = box_mask(box, image.shape[:2])
    if not whole.any() or whole.all():
        return whole
    state = np.where(whole, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(image, state, None, *models, iterations, cv2.GC_INIT_WITH_MASK)
    cut = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
    return cut if cut.any() else whole


def paint_boxes(
    candidates: Sequence[Mapping],
    size: tuple[int, int],
    clusters: int,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """Paint the boxes of candidates into a label map; the most confident one is on top.

    Args:
        candidates: rows of `confident`, the most confident one first.
        size: (height, width) of the image.
        clusters: C.
        image: H x W x 3 uint8, to segment the objects by GrabCut; None paints whole boxes.

    Returns:
        H x W label map, see `label_maps.paint`.
    """
    layers = []
    for candidate in reversed(candidates):
        box = tuple(candidate[name] for name in ("x", "y", "box_width", "box_height"))
        mask = box_mask(box, size) if image is None else grabcut(image, box)
        layers.append((mask, candidate["cluster"]))
    return label_maps.paint(size, layers, clusters)
