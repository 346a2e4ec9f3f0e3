"""Reading image files as RGB arrays, and resizing them for the backbone."""

import contextlib
import math
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from workflow_scripts.maskdistill.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

# JPEGs with fewer pixels are always decoded whole, which takes a few hundredths of a second.
DRAFT_PIXELS = 2**21
# `_open` checks the size against `max_pixels` before decoding, with a clearer message.
Image.MAX_IMAGE_PIXELS = None


class ImageRejected(Exception):
    """An unusable image; the message is the reason, for the column `status`."""


def read_image(
    path: str | os.PathLike, *, max_pixels: int | None = None, min_side: int = 1
) -> np.ndarray:
    """Decode one image to RGB, upright.

    EXIF orientation is applied. Grayscale, palette, CMYK and 16-bit images are converted; alpha
    is composited over white; only the first frame of an animation is read.

    Args:
        path: JPEG, PNG, WebP, TIFF or BMP file.
        max_pixels: height x width above which the image is rejected without being decoded.
        min_side: smallest accepted side, in pixels.

    Returns:
        uint8 array of H x W x 3.

    Raises:
        ImageRejected: missing, empty, damaged, truncated, too small or too large.
    """
    with _open(path, max_pixels=max_pixels, min_side=min_side) as image:
        return np.array(_to_rgb(_decode(image)))


def read_listed(
    path: str | os.PathLike, size: tuple[int, int], resized: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode an image that was readable and had this (height, width) when it was listed.

    Args:
        resized: (height, width) that the image is resized to. A large JPEG of at least three times
            that size is decoded at half, a quarter or an eighth of its size, in a quarter of the
            time. The result differs by less than half a grey level in the mean. None keeps the
            image's size.

    Returns:
        uint8 array of H x W x 3, RGB.

    Raises:
        InputError: the file has changed since.
    """
    try:
        with _open(path, max_pixels=None, min_side=1) as opened:
            listed = None if resized is None else _draft(opened, resized)
            image = np.array(_to_rgb(_decode(opened)))
    except ImageRejected as rejection:
        raise InputError(
            f"{path}: {rejection}; it was readable when it was listed, so run list_images again"
        ) from rejection
    height, width = listed or image.shape[:2]
    if (height, width) != size:
        raise InputError(
            f"{path}: {height} x {width} px, but listed as {size[0]} x {size[1]}; "
            "run list_images again"
        )
    return image if resized is None else resize(image, resized)


def _draft(image: Image.Image, size: tuple[int, int]) -> tuple[int, int] | None:
    """Let libjpeg decode a JPEG at a fraction of its size, at least 1.5 times `size`.

    Returns:
        (height, width) of the upright image at its own size; None for smaller images and other
        formats, which are decoded whole.
    """
    if image.format not in ("JPEG", "MPO") or math.prod(image.size) < DRAFT_PIXELS:
        return None
    try:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception as error:  # damaged EXIF data raise many types in Pillow
        raise ImageRejected(f"damaged EXIF data: {_one_line(error)}") from error
    stored = image.size
    wanted = size if turned else size[::-1]
    image.draft("RGB", tuple(math.ceil(1.5 * side) for side in wanted))
    return stored if turned else stored[::-1]


def probe_image(
    path: str | os.PathLike, *, max_pixels: int | None = None, min_side: int = 1
) -> tuple[int, int]:
    """Check that an image can be read to its end, as cheaply as its format allows.

    A JPEG is decoded at an eighth of its size, which still walks through all of its data.

    Returns:
        (height, width) of the upright image, in pixels.

    Raises:
        ImageRejected: as `read_image`.
    """
    with _open(path, max_pixels=max_pixels, min_side=min_side) as image:
        width, height = image.size
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        _upright(_decode(image))
        # Orientations 5..8 swap the axes. The tag is read after decoding, because Pillow turns a
        # TIFF upright while decoding and drops the tag; its size is upright from the start.
        if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
            width, height = height, width
        return height, width


@contextlib.contextmanager
def _open(
    path: str | os.PathLike, *, max_pixels: int | None, min_side: int
) -> Iterator[Image.Image]:
    with contextlib.ExitStack() as opened:
        try:
            if os.path.getsize(path) == 0:
                raise ImageRejected("empty file (0 bytes)")
            # Given a path, Pillow would map an uncompressed TIFF into memory, and then it drops
            # the orientation without turning the image.
            file = opened.enter_context(open(path, "rb"))
            image = opened.enter_context(Image.open(file))
        except FileNotFoundError:
            raise ImageRejected("missing file") from None
        except UnidentifiedImageError:
            raise ImageRejected("not an image of a known format") from None
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageRejected(f"unreadable: {_one_line(error)}") from error
        width, height = image.size
        size = f"{height} x {width} px"
        if max_pixels is not None and width * height > max_pixels:
            raise ImageRejected(f"too large: {size} (images.max_pixels is {max_pixels})")
        if min(width, height) < min_side:
            raise ImageRejected(f"too small: {size} (images.min_side is {min_side})")
        yield image


def _decode(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, MemoryError) as error:
        raise ImageRejected(f"truncated or damaged: {_one_line(error)}") from error
    return image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data raise many types in Pillow
        raise ImageRejected(f"damaged EXIF data: {_one_line(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _upright(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretch(np.asarray(image))).convert("RGB")
    if image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _stretch(values: np.ndarray) -> np.ndarray:
    """32-bit integers or floats to uint8: 16-bit data by its range, other data by min and max."""
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if low >= 0 and 255 < high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and 1 < high <= 255:
        low, high = 0.0, 255.0
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (values - low) / max(high - low, 1e-12)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def resized_size(
    height: int, width: int, *, shorter_side: int, longer_side: int | None = None
) -> tuple[int, int]:
    """Size with the given shorter side and the same aspect ratio.

    Args:
        longer_side: upper bound on the longer side, so that a panorama does not have too many
            patches.

    Returns:
        (height, width) in pixels, at least 1 each.
    """
    scale = shorter_side / min(height, width)
    if longer_side is not None:
        scale = min(scale, longer_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def bounded_size(height: int, width: int, longer_side: int | None) -> tuple[int, int]:
    """Size with the same aspect ratio and at most this longer side; smaller images keep theirs.

    Args:
        longer_side: in pixels; None for no bound.

    Returns:
        (height, width) in pixels, at least 1 each.
    """
    if longer_side is None or max(height, width) <= longer_side:
        return height, width
    return resized_size(height, width, shorter_side=min(height, width), longer_side=longer_side)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an H x W x 3 uint8 image to `size` = (height, width), bicubic with antialiasing."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    # A copy, because torch warns of arrays that cannot be written.
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """`size` = (height, width) rounded up to multiples of the patch size."""
    height, width = size
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple
