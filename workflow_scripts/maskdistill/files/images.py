"""Reading image files as RGB arrays, and resizing them for the backbone.

Files are recognised by their content, whatever their suffix. Of an animation, of a TIFF with
several pages and of a HEIF with several pictures, the first (primary) one is read.

One rule for all values beyond 8 bits, integers and floats, which are mapped to 0..255: the value
`top` becomes 255 and 0 stays 0, where `top` is the smallest of 1 (floats only), 255, 1023, 4095,
16383 and 65535 that is not below the image's largest value; if that would leave more than three
quarters of the range empty, `top` is the largest value itself. So 10-, 12- and 14-bit data in
16-bit files keep their brightness. Images with negative values or values above 65535 are mapped
from their smallest to their largest value.
"""

import contextlib
import functools
import math
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from workflow_scripts.maskdistill.errors import InputError

# Format of Pillow → suffixes of its files. No other format is tried on a file, whatever its name:
# some of Pillow's formats start other programs.
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
# `_open` checks the size against `max_pixels` before decoding, with a clearer message.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION = 0x0112  # tag of EXIF
_SWAPPING = (5, 6, 7, 8)  # its values that swap height and width
_BITS_PER_SAMPLE, _EXTRA_SAMPLES = 258, 338  # tags of TIFF
_ALPHA_SAMPLES = {1, 2, 999}  # values of the latter: associated, unassociated, Corel's
_WITH_ALPHA = ("LA", "PA", "La", "RGBa", "RGBA")
_TOPS = (1, 255, 1023, 4095, 16383, 65535)


class ImageRejected(Exception):
    """An unusable image; the message is the reason, for the column `status`."""


class ImageFacts(NamedTuple):
    """What is known of an image that can be read."""

    height: int  # of the upright image, in pixels
    width: int
    format: str  # a key of FORMATS
    bits: int  # per sample, as stored
    orientation: int  # EXIF: 1 upright, 2..8 to be turned or mirrored
    several: bool  # whether only the first of several frames or pages is read

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


def read_image(
    path: str | os.PathLike, *, max_pixels: int | None = None, min_side: int = 1
) -> np.ndarray:
    """Decode one image to RGB, upright.

    EXIF orientation is applied. Grayscale, palette, CMYK and LAB images are converted, values
    beyond 8 bits by the rule above; transparency is composited over white. Extra bands of a TIFF
    that are not declared as transparency are left out.

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
        alpha = _has_alpha(image)
        return np.array(_to_rgb(_upright(_decode(image, path)), alpha=alpha))


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
            alpha = _has_alpha(opened)
            image = np.array(_to_rgb(_upright(_decode(opened, path)), alpha=alpha))
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
        (width, height), alpha, bits = image.size, _has_alpha(image), _bits(image)
        kind, several = _format(image), _has_several(image)
        # Pillow turns a TIFF upright while decoding, and drops the tag; its size is upright from
        # the start. Some other formats have the tag after their pixels.
        of_tiff = _orientation(image) if kind == "TIFF" else None
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        upright = _upright(_decode(image, path))
        # One pixel shows whether this kind of pixels can be converted.
        _to_rgb(upright.crop((0, 0, 1, 1)), alpha=alpha)
        orientation = of_tiff or _orientation(image)
        if kind != "TIFF" and orientation in _SWAPPING:
            width, height = height, width
        return ImageFacts(height, width, kind, bits, orientation, several)


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
    """(height, width) of an image whose stored pixels have this one, upright."""
    return size[::-1] if orientation in _SWAPPING else size


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored values, H x W, as an EXIF orientation (1..8) turns and mirrors them.

    It is meant for labels that were drawn on the stored pixels of a photograph.
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
            # Opening a pipe would wait for somebody to write to it.
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
            raise ImageRejected(f"unreadable: {_one_line(error)}") from error
        width, height = image.size
        size = f"{height} x {width} px"
        if max_pixels is not None and width * height > max_pixels:
            raise ImageRejected(f"too large: {size} (images.max_pixels is {max_pixels})")
        if min(width, height) < min_side:
            raise ImageRejected(f"too small: {size} (images.min_side is {min_side})")
        yield image


@functools.cache
def register_heif() -> None:
    """Teach Pillow's `Image.open` to read HEIC; this module's functions do so by themselves."""
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
    # What follows the first picture of an MPO are previews of it, or what the other eye sees.
    return image.format not in ("MPO", "HEIF") and getattr(image, "is_animated", False)


def _bits(image: Image.Image) -> int:
    """Bits per sample of an image that is not decoded yet."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    if image.mode.startswith("I;16") or (image.tile and ";16B" in str(image.tile[0].args)):
        return 16
    if _is_raw_ppm(image) and image.tile[0].args[1] > 255:
        return 16
    return {"1": 1, "I": 16, "F": 32}.get(image.mode, 8)


def _is_raw_ppm(image: Image.Image) -> bool:
    """Whether an image is a PPM whose data Pillow scales from its largest value, args[1]."""
    return image.format == "PPM" and bool(image.tile) and image.tile[0].codec_name == "ppm"


def _has_alpha(image: Image.Image) -> bool:
    """Whether the last band of these pixels is, or a color of them stands for, transparency."""
    if image.format == "TIFF" and image.mode in _WITH_ALPHA:
        return bool(_ALPHA_SAMPLES & {*image.tag_v2.get(_EXTRA_SAMPLES, ())})
    # A colour of 16 bits that is transparent says nothing about the colours of 8 bits.
    return image.mode in _WITH_ALPHA or ("transparency" in image.info and _bits(image) <= 8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is no valid one."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # damaged EXIF data raise many types in Pillow
        raise ImageRejected(f"damaged EXIF data: {_one_line(error)}") from error
    return found if found in _MIRRORED else 1


def _decode(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    # Pillow keeps only the higher byte of 16 bits.
    deep = image.mode in ("RGB", *_WITH_ALPHA) and _bits(image) == 16
    ppm_data = image.tile[0].offset if deep and _is_raw_ppm(image) else None
    try:
        image.load()
    except Exception as error:  # damaged files raise many types in Pillow
        raise ImageRejected(f"truncated or damaged: {_one_line(error)}") from error
    if ppm_data is not None:
        values = np.fromfile(path, ">u2", count=3 * image.width * image.height, offset=ppm_data)
        values = values.reshape(image.height, image.width, 3).astype(np.uint16)
        image.paste(Image.fromarray(_to_bytes(values)))
    elif deep:
        _scale_deep_colours(image, path)
    return image


def _scale_deep_colours(image: Image.Image, path: str | os.PathLike) -> None:
    """Replace the colours of a 16-bit image, of which Pillow keeps the higher bytes."""
    import cv2  # slow to import, and seldom needed

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    bands = [band for band in image.getbands() if band not in "Aa"]
    higher = np.atleast_3d(np.asarray(image))[..., : len(bands)]
    if pixels is not None and pixels.ndim == 3:
        pixels = pixels[..., 2::-1] if len(bands) == 3 else pixels[..., :1]  # BGR
    # Both decoders read the same pixels, or the image is not what it seems.
    if (
        pixels is None
        or pixels.dtype != np.uint16
        or pixels.shape != higher.shape
        or not np.array_equal(pixels >> 8, higher)
    ):
        raise ImageRejected(f"unreadable: 16-bit {image.format} of a kind that is not read")
    scaled = _to_bytes(pixels)
    parts = [Image.fromarray(scaled[..., i]) for i in range(len(bands))]
    parts += [image.getchannel(band) for band in image.getbands() if band in "Aa"]
    image.paste(Image.merge(image.mode, parts))


def _one_line(error: Exception) -> str:
    # The path in the message of a system's error may be long, and stands next to it anyway.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged EXIF data raise many types in Pillow
        raise ImageRejected(f"damaged EXIF data: {_one_line(error)}") from error


def _to_rgb(image: Image.Image, *, alpha: bool) -> Image.Image:
    """An upright image as RGB.

    Args:
        alpha: whether it has transparency, which is composited over white.

    Raises:
        ImageRejected: pixels that cannot be converted.
    """
    try:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return Image.fromarray(_to_bytes(np.asarray(image))).convert("RGB")
        if image.mode == "LAB":
            return ImageCms.applyTransform(image, _lab_to_rgb())
        if alpha:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")
    except (ValueError, ImageCms.PyCMSError) as error:
        raise ImageRejected(f"pixels that cannot be converted: {_one_line(error)}") from error


@functools.cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Values beyond 8 bits to uint8, by the rule at the top of this module.

    Infinite values become those of the nearest end, undefined ones the lowest value.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0 and high <= _TOPS[-1]:
        tops = _TOPS if values.dtype.kind == "f" else _TOPS[1:]
        top = next(top for top in tops if high <= top)
        low, high = 0.0, top if 4 * high >= top else high
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _scaled(np.arange(65536), low, high)[values]
    return _scaled(values, low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
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
