"""Label maps and masks painted over images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.files import label_maps, masks
from workflow_scripts.maskdistill.pictures import drawing


def ranked(rows: Sequence[Mapping]) -> list[Mapping]:
    """The candidates of an image, the most confident first.

    Args:
        rows: rows of one image in `candidates` or `confident`. An image without candidates has one
            row without a candidate_id, which is left out.
    """
    found = [row for row in rows if row["candidate_id"] is not None]
    return sorted(found, key=lambda row: (-row["score"], row["candidate_id"]))


def paint_rows(
    size: tuple[int, int], rows: Sequence[Mapping], labels: Sequence[int | None], clusters: int
) -> np.ndarray:
    """Paint the masks of Parquet rows into one label map; the first row is on top.

    Args:
        size: (height, width) of the image.
        labels: label of each row; rows without a label or without a mask are left out.
        clusters: the largest label that may occur.

    Returns:
        H x W, uint8 or uint16.
    """
    painted = [
        (row, label)
        for row, label in zip(rows, labels, strict=True)
        if label and row["rle_counts"] is not None
    ]
    layers = ((masks.decode_row(row), label) for row, label in reversed(painted))
    return label_maps.paint(size, layers, clusters)


def shown(labels: np.ndarray, colours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map to paint over a picture, in which pixels that are not painted are 0.

    Ignored pixels and clusters matched with background, whose colour is black, are not painted.

    Args:
        labels: H x W uint8 or uint16.
        colours: N x 3 uint8, label → colour.
        size: (height, width) of the picture.

    Returns:
        Label map of `size`.
    """
    labels = label_maps.without_ignore(labels)
    background = (colours == 0).all(axis=1)
    return masks.resize_mask(np.where(background[labels], 0, labels), size)


def visible(colour: np.ndarray) -> np.ndarray:
    """A cluster's colour, RGB uint8; grey instead of black, the colour of background."""
    return colour if colour.any() else np.array([128, 128, 128], np.uint8)


def write_overlay(image: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Write an image with its label map painted over it.

    Args:
        image: H x W x 3 uint8.
        labels: H x W, 0 background.
        path: JPEG to write; its folder is made if missing.
    """
    colours = label_maps.colours(np.arange(int(labels.max()) + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing.overlay(image, labels, colours)).save(path, "JPEG", quality=90)
