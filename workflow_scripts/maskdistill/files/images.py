"""Reading image files as RGB arrays.

Files are recognised by their content, whatever their suffix. Of an animation, of a TIFF with
several pages and of a HEIF with several pictures, the first (primary) one is read.
"""

import contextlib
import functools
import math
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from workflow_scripts.maskdistill.errors import ImageRejected, InputError, one_line
from workflow_scripts.maskdistill.files import pixel_values
from workflow_scripts.maskdistill.files.image_sizes import resize

# Format of Pillow → suffixes of its files. Files are never read as any other format, because some
# of Pillow's formats start other programs.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# JPEGs with fewer pixels are always decoded whole, which takes a few hundredths of a second.
DRAFT_PIXELS = 2**21
LOSSY_ROUNDING = 3  # of 255: how far pixels of one colour differ in a WebP of Pillow's quality
EIGHT_BIT_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB")  # of Pillow
# `_open` checks the size against `max_pixels` before decoding, with a clearer message.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION = 0x0112  # EXIF tag
_SWAPPING = (5, 6, 7, 8)  # orientations that swap height and width


class ImageFacts(NamedTuple):
    """Facts about an image that can be read."""

    height: int  # of the upright image, in pixels
    width: int
    format: str  # a key of FORMATS
    bits: int  # per sample, as stored
    orientation: int  # EXIF: 1 upright, 2..8 to be turned or mirrored
    several: bool  # whether only the first of several frames or pages is read
    one_colour: bool  # whether all pixels are alike, so that the image shows nothing

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


def read_image(
    path: str | os.PathLike, *, max_pixels: int | None = None, min_side: int = 1
) -> np.ndarray:
    """Decode one image to RGB, upright.

    EXIF orientation is applied. Grayscale, palette, CMYK and LAB images are converted to RGB.
    Values of more than 8 bits are scaled by the rule at the top of `pixel_values`. Transparency is
    composited over white. Extra bands of a TIFF that are not declared as transparency are left out.

    Args:
        path: a file of one of `FORMATS`.
        max_pixels: height x width above which the image is rejected without being decoded.
        min_side: smallest accepted side, in pixels.

    Returns:
        uint8 array of H x W x 3.

    Raises:
        ImageRejected: missing, empty, damaged, truncated, too small or too large.
    """
    with _open(path, max_pixels=max_pixels, min_side=min_side) as image:
        alpha = pixel_values.has_alpha(image)
        return np.array(pixel_values.to_rgb(_upright(_decode(image, path)), alpha=alpha))


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
            alpha = pixel_values.has_alpha(opened)
            image = np.array(pixel_values.to_rgb(_upright(_decode(opened, path)), alpha=alpha))
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
    turned = _orientation(image) in _SWAPPING
    stored = image.size
    wanted = size if turned else size[::-1]
    image.draft("RGB", tuple(math.ceil(1.5 * side) for side in wanted))
    return stored if turned else stored[::-1]


def probe_image(
    path: str | os.PathLike, *, max_pixels: int | None = None, min_side: int = 1
) -> ImageFacts:
    """Check that an image can be read to its end, as cheaply as its format allows.

    A JPEG is decoded at an eighth of its size, which still walks through all of its data.

    Raises:
        ImageRejected: as `read_image`.
    """
    with _open(path, max_pixels=max_pixels, min_side=min_side) as image:
        (width, height), alpha = image.size, pixel_values.has_alpha(image)
        bits = pixel_values.bits_per_sample(image)
        kind = _format(image)
        # The orientation of a TIFF is read before decoding, because Pillow then turns the image
        # and drops the tag; its size is that of the upright image from the start. Other formats
        # are asked after decoding, because some store the tag after the pixels.
        of_tiff = _orientation(image) if kind == "TIFF" else None
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        upright = _upright(_decode(image, path))
        one_colour = _has_one_colour(upright)
        # One pixel shows whether this kind of pixels can be converted.
        pixel_values.to_rgb(upright.crop((0, 0, 1, 1)), alpha=alpha)
        orientation = of_tiff or _orientation(image)
        if kind != "TIFF" and orientation in _SWAPPING:
            width, height = height, width
        # `_has_several` is called last, because it moves to other frames.
        several = _has_several(image)
        return ImageFacts(height, width, kind, bits, orientation, several, one_colour)


def _has_one_colour(image: Image.Image) -> bool:
    """Whether no band varies by more than the rounding of a lossy format."""
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else [extrema]
    # Numbers of a palette are no brightness, and modes such as I have more than 8 bits.
    tolerance = LOSSY_ROUNDING if image.mode in EIGHT_BIT_MODES else 0
    return all(high - low <= tolerance for low, high in bands)


def stored_size(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """(height, width) of the pixels as they are stored, and the EXIF orientation (1..8).

    Raises:
        ImageRejected: missing, empty or damaged.
    """
    with _open(path, max_pixels=None, min_side=1) as image:
        width, height = image.size
        orientation = _orientation(image)
        if image.format == "TIFF" and orientation in _SWAPPING:
            width, height = height, width
        return (height, width), orientation


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) of an image after EXIF has turned its stored pixels, which have `size`."""
    return size[::-1] if orientation in _SWAPPING else size


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror an array of stored pixels, H x W, as an EXIF orientation (1..8) says.

    This is meant for labels that were drawn on the stored pixels of a photograph.
    """
    if orientation in _SWAPPING:
        pixels = pixels.T
    mirrored_rows, mirrored_columns = _MIRRORED[orientation]
    return pixels[:: -1 if mirrored_rows else 1, :: -1 if mirrored_columns else 1]


# EXIF orientation → whether rows and columns are mirrored, after the transposition if there is one.
_MIRRORED = {
    1: (False, False),
    2: (False, True),
    3: (True, True),
    4: (True, False),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}


@contextlib.contextmanager
def _open(
    path: str | os.PathLike, *, max_pixels: int | None, min_side: int
) -> Iterator[Image.Image]:
    with contextlib.ExitStack() as opened:
        try:
            found = os.stat(path)
            # Opening a named pipe would wait until another process writes to it.
            if not stat.S_ISREG(found.st_mode):
                raise ImageRejected("unreadable: not a regular file")
            if found.st_size == 0:
                raise ImageRejected("empty file (0 bytes)")
            # Given a path, Pillow would map an uncompressed TIFF into memory, and then it drops
            # the orientation without turning the image.
            file = opened.enter_context(open(path, "rb"))
            register_heif()
            image = opened.enter_context(Image.open(file, formats=tuple(FORMATS)))
        except FileNotFoundError:
            raise ImageRejected("missing file") from None
        except UnidentifiedImageError:
            raise ImageRejected(_unknown_kind(path)) from None
        except ImageRejected:
            raise
        except Exception as error:  # damaged headers raise many types in Pillow
            raise ImageRejected(f"unreadable: {one_line(error)}") from error
        width, height = image.size
        size = f"{height} x {width} px"
        if max_pixels is not None and width * height > max_pixels:
            raise ImageRejected(f"too large: {size} (images.max_pixels is {max_pixels})")
        if min(width, height) < min_side:
            raise ImageRejected(f"too small: {size} (images.min_side is {min_side})")
        yield image


@functools.cache
def register_heif() -> None:
    """Let Pillow's `Image.open` read HEIC. The functions of this module already call this."""
    from pillow_heif import register_heif_opener  # not needed to parse the workflow

    register_heif_opener()


def _unknown_kind(path: str | os.PathLike) -> str:
    """Why Pillow does not identify a file."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF whose number of bands or bits is not read; convert it to 8-bit RGB"
    return "not an image of a known format"


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format


def _has_several(image: Image.Image) -> bool:
    # Further pictures of an MPO are previews, or the second view of a stereo pair.
    if image.format in ("MPO", "HEIF"):
        return False
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # damaged after the first frame, which raises many types in Pillow
        return True


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is no valid one."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # damaged EXIF data raise many types in Pillow
        raise ImageRejected(f"damaged EXIF data: {one_line(error)}") from error
    return found if found in _MIRRORED else 1


def _decode(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    deep = pixel_values.has_deep_colours(image)
    ppm_data = image.tile[0].offset if deep and pixel_values.is_raw_ppm(image) else None
    try:
        image.load()
    except Exception as error:  # damaged files raise many types in Pillow
        raise ImageRejected(f"truncated or damaged: {one_line(error)}") from error
    if ppm_data is not None:
        pixel_values.scale_deep_ppm(image, path, ppm_data)
    elif deep:
        pixel_values.scale_deep_colours(image, path)
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data raise many types in Pillow
        raise ImageRejected(f"damaged EXIF data: {one_line(error)}") from error
