"""Pictures of new images with what was found in them."""

from pathlib import Path

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.pictures import drawing


def write_overlay(image: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Write an image with its label map over it.

    Args:
        image: H x W x 3 uint8.
        labels: H x W, 0 background.
        path: JPEG to write, with its folder.
    """
    colours = label_maps.colours(np.arange(int(labels.max()) + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing.overlay(image, labels, colours)).save(path, "JPEG", quality=90)
