"""Masks made from boxes (Table S1): the whole box, or the object in it as GrabCut finds it."""

import cv2
import numpy as np


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
    """Cut the object out of its box by GrabCut (Rother et al., 2004), as OpenCV implements it.

    Pixels outside of the box are background for certain, those inside perhaps foreground. What
    OpenCV draws at random is seeded: the same image and box give the same mask.

    Args:
        image: H x W x 3 uint8.
        box: XYWH in pixels.
        iterations: of the colour models and the cut.

    Returns:
        H x W bool; the whole box where it fills the image or nothing is left of it.
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
