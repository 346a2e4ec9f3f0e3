"""Overlays, crops and encodings of pictures: pure functions on uint8 arrays."""

import base64
import io
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.files import image_sizes

FADED = 0.82  # weight of FADED_TO for pixels outside of a mask
FADED_TO = 128
_STRIP = 2**20


def thumbnail(image: np.ndarray, longer_side: int) -> np.ndarray:
    """Scale an H x W x 3 uint8 image down to `longer_side` pixels; smaller ones are unchanged."""
    height, width = image.shape[:2]
    scale = min(1.0, longer_side / max(height, width))
    return image_sizes.resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def contours(labels: np.ndarray) -> np.ndarray:
    """Pixels that have a neighbour of another label, above, below, left or right.

    Args:
        labels: H x W, integers or bool.

    Returns:
        H x W bool; the lines are two pixels wide, one pixel on each side of the border.
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
        labels: H x W integers; pixels of 0 are not painted, but lose most of their colour.
        colours: N x 3 uint8, label → colour.
        alpha: share of the colour within a region, 0..1; the contour is nearly white.

    Returns:
        H x W x 3 uint8.
    """
    edges = contours(labels)
    painted = np.empty_like(image)
    for some in _strips(*labels.shape):
        inside = labels[some] > 0
        grey = image[some].mean(axis=2, keepdims=True).repeat(3, axis=2)
        # The image is made grey, so that its colours are not confused with those of labels.
        result = np.where(inside[..., None], grey, 0.2 * image[some] + 0.8 * grey)
        colour = colours[labels[some]].astype(np.float64)
        result[inside] = (1 - alpha) * result[inside] + alpha * colour[inside]
        edge = edges[some] & inside
        result[edge] = 0.3 * colour[edge] + 0.7 * 255
        painted[some] = np.round(result)
    return painted


def _strips(height: int, width: int) -> Iterator[slice]:
    """Divide a picture into strips of about `_STRIP` pixels, to save memory in float64."""
    rows = max(1, _STRIP // max(1, width))
    return (slice(first, first + rows) for first in range(0, height, rows))


def transparent_png(labels: np.ndarray, colours: np.ndarray, *, alpha: float = 0.6) -> bytes:
    """A label map as a transparent layer over its image, with colours and contours as in `overlay`.

    Args:
        labels: H x W integers; 0 is transparent.
        colours: N x 3 uint8, label → colour; at most 255 different colours.
        alpha: opacity within a region, 0..1; contours are opaque.

    Returns:
        A palette PNG with transparency; with more than 127 colours it has no contours.
    """
    # Labels of one colour share an entry of the palette.
    packed = (colours.astype(np.int64) << (16, 8, 0)).sum(axis=1) + 1
    packed[0] = 0
    present = np.bincount(labels.ravel(), minlength=len(colours)) > 0
    found = np.unique(packed[present])
    indices = np.searchsorted(found, packed).astype(np.uint8)[labels]
    palette = ((found[:, None] - 1) >> (16, 8, 0)) & 255
    opacity = np.where(found > 0, round(255 * alpha), 0)
    if 2 * len(found) <= 256:
        # The palette gets a second, lighter copy of each colour, for contours.
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
    """Crop a square around a mask; pixels outside of the mask are faded to grey.

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
    square = np.full((side, side, 3), FADED_TO, dtype=np.uint8)
    y, x = max(-top, 0), max(-left, 0)
    inner = square[y : y + part.shape[0], x : x + part.shape[1]]
    for some in _strips(*part.shape[:2]):
        faded = (1 - FADED) * part[some] + FADED * FADED_TO
        inner[some] = np.round(np.where(inside[some], part[some], faded))
    return image_sizes.resize(square, (size, size))


def jpeg(image: np.ndarray, *, quality: int = 85, subsampling: int = -1) -> bytes:
    """An H x W x 3 uint8 image as a JPEG; `subsampling` as in Pillow, 0 for none."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(
        buffer, format="JPEG", quality=quality, optimize=True, subsampling=subsampling
    )
    return buffer.getvalue()


def data_uri(image: np.ndarray | bytes, *, quality: int = 85) -> str:
    """A `data:` URI of an H x W x 3 uint8 image (as a JPEG) or of the bytes of a PNG."""
    kind, data = (
        ("png", image) if isinstance(image, bytes) else ("jpeg", jpeg(image, quality=quality))
    )
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def css_colour(colour: np.ndarray) -> str:
    """An RGB triple, uint8, as `#rrggbb`."""
    return "#" + bytes(colour.tolist()).hex()
