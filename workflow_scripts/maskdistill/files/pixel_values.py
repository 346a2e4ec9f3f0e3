"""Conversion of decoded pixels of any kind to RGB with 8 bits per sample.

All values of more than 8 bits, integers and floats, are scaled to 0..255 by one rule: 0 stays 0,
and `top` becomes 255. `top` is the smallest of 1 (floats only), 255, 1023, 4095, 16383 and 65535
that is not below the image's largest value. If that would leave more than three quarters of the
range empty, `top` is the largest value itself. So 10-, 12- and 14-bit data in 16-bit files keep
their brightness. Images with negative values or values above 65535 are scaled from their smallest
to their largest value.
"""

import functools
import os

import numpy as np
from PIL import Image, ImageCms

from workflow_scripts.maskdistill.errors import ImageRejected, one_line

_BITS_PER_SAMPLE, _EXTRA_SAMPLES = 258, 338  # tags of TIFF
_ALPHA_SAMPLES = {1, 2, 999}  # values of _EXTRA_SAMPLES for transparency; 999 is Corel's
_WITH_ALPHA = ("LA", "PA", "La", "RGBa", "RGBA")
_TOPS = (1, 255, 1023, 4095, 16383, 65535)


def bits_per_sample(image: Image.Image) -> int:
    """Bits per sample of an image that is not decoded yet."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    if image.mode.startswith("I;16") or (image.tile and ";16B" in str(image.tile[0].args)):
        return 16
    if is_raw_ppm(image) and image.tile[0].args[1] > 255:
        return 16
    return {"1": 1, "I": 16, "F": 32}.get(image.mode, 8)


def is_raw_ppm(image: Image.Image) -> bool:
    """Whether this is a PPM whose values Pillow scales by the maximum in its header, args[1]."""
    return image.format == "PPM" and bool(image.tile) and image.tile[0].codec_name == "ppm"


def has_alpha(image: Image.Image) -> bool:
    """Whether the image has transparency: as its last band, or as a colour that stands for it."""
    if image.format == "TIFF" and image.mode in _WITH_ALPHA:
        return bool(_ALPHA_SAMPLES & {*image.tag_v2.get(_EXTRA_SAMPLES, ())})
    # A transparent colour of 16 bits cannot be compared with colours that are reduced to 8 bits.
    eight_bits = bits_per_sample(image) <= 8
    return image.mode in _WITH_ALPHA or ("transparency" in image.info and eight_bits)


def has_deep_colours(image: Image.Image) -> bool:
    """Whether the image has colours of 16 bits; Pillow keeps only their higher bytes."""
    return image.mode in ("RGB", *_WITH_ALPHA) and bits_per_sample(image) == 16


def scale_deep_ppm(image: Image.Image, path: str | os.PathLike, offset: int) -> None:
    """Replace the colours of a 16-bit PPM, whose data begin at byte `offset` of its file."""
    values = np.fromfile(path, ">u2", count=3 * image.width * image.height, offset=offset)
    values = values.reshape(image.height, image.width, 3).astype(np.uint16)
    image.paste(Image.fromarray(_to_bytes(values)))


def scale_deep_colours(image: Image.Image, path: str | os.PathLike) -> None:
    """Replace the colours of a 16-bit image, because Pillow kept only their higher bytes."""
    import cv2  # slow to import, and seldom needed

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    bands = [band for band in image.getbands() if band not in "Aa"]
    higher = np.atleast_3d(np.asarray(image))[..., : len(bands)]
    if pixels is not None and pixels.ndim == 3:
        pixels = pixels[..., 2::-1] if len(bands) == 3 else pixels[..., :1]  # BGR
    # OpenCV must have read the same pixels as Pillow; otherwise this kind of file is not supported.
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


def to_rgb(image: Image.Image, *, alpha: bool) -> Image.Image:
    """An upright image as RGB.

    Args:
        alpha: whether it has transparency, which is composited over white.

    Raises:
        ImageRejected: the pixels cannot be converted.
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
        raise ImageRejected(f"pixels that cannot be converted: {one_line(error)}") from error


@functools.cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale values of more than 8 bits to uint8, by the rule at the top of this module.

    Infinity becomes 255; minus infinity and NaN become 0.
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
