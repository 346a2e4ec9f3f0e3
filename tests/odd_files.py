"""Writes unusual files (rare formats, damage, strange names) and gives the expected results."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
from PIL import Image, ImageCms

pillow_heif.register_heif_opener()  # lets Pillow write HEIC files

# Four quadrants of one colour each, so large that lossy formats keep their colours.
COLOURS = np.array([[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [200, 200, 0]]], np.uint8)
GRAYS = np.array([[40, 110], [180, 250]], np.uint8)
PICTURE = COLOURS.repeat(32, axis=0).repeat(48, axis=1)  # 64 x 96
GRAY = GRAYS.repeat(32, axis=0).repeat(48, axis=1)
# EXIF orientation → function that turns an upright image into the stored one (EXIF 2.32).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def exif(orientation: int) -> Image.Exif:
    """EXIF data that have only an orientation."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def write_tiff(
    path: Path,
    pixels: np.ndarray,
    *,
    photometric: int = 2,
    extra: tuple[int, ...] | None = None,
    orientation: int = 1,
) -> None:
    """Write an uncompressed TIFF of H x W x bands; no installed library writes all these kinds.

    Args:
        photometric: 1 gray, 2 RGB.
        extra: values of the tag ExtraSamples: 0 unspecified, 1 or 2 transparency.
    """
    pixels = np.ascontiguousarray(np.atleast_3d(pixels))
    height, width, bands = pixels.shape
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    short, long = "H", "I"
    tags = {
        256: (long, [width]),
        257: (long, [height]),
        258: (short, [8 * pixels.dtype.itemsize] * bands),
        259: (short, [1]),
        262: (short, [photometric]),
        273: (long, [0]),
        274: (short, [orientation]),
        277: (short, [bands]),
        278: (long, [height]),
        279: (long, [len(data)]),
        **({} if extra is None else {338: (short, extra)}),
        339: (short, [kind] * bands),
    }
    packed = {tag: struct.pack(f"<{len(v)}{code}", *v) for tag, (code, v) in tags.items()}
    start = 8 + 2 + 12 * len(tags) + 4
    packed[273] = struct.pack("<I", start + sum(len(v) for v in packed.values() if len(v) > 4))
    entries = tail = b""
    for tag, (code, values) in tags.items():
        value = packed[tag].ljust(4, b"\0")
        if len(value) > 4:
            value, tail = struct.pack("<I", start + len(tail)), tail + value
        entries += struct.pack("<HHI", tag, 3 if code == short else 4, len(values)) + value
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(header + entries + struct.pack("<I", 0) + tail + data)


def write_deep_png(path: Path, pixels: np.ndarray, *, orientation: int = 1) -> None:
    """Write a 16-bit PNG of H x W x 3 (RGB) or H x W x 4 (RGBA), with EXIF data."""
    order = [2, 1, 0, 3][: pixels.shape[2]]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))
    assert done
    data = encoded.tobytes()
    chunk = b"eXIf" + exif(orientation).tobytes()[6:]
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    before = data.index(b"IDAT") - 4
    path.write_bytes(data[:before] + chunk + data[before:])


def jpeg(**options: object) -> bytes:
    """The picture as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def write_images(root: Path) -> dict[str, np.ndarray]:
    """Write images that can be read; gives name → four colours, 2 x 2 x 3, or grays, 2 x 2."""
    picture, gray = Image.fromarray(PICTURE), Image.fromarray(GRAY)
    found: dict[str, np.ndarray] = {}

    def path(name: str, colours: np.ndarray = COLOURS) -> Path:
        found[name] = colours
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        return root / name

    for suffix in ("jpg", "JPG", "jpe", "jfif", "png", "PNG", "webp", "tif", "TIFF", "bmp", "dib"):
        picture.save(path(f"kinds/a.{suffix}"), {"jfif": "JPEG"}.get(suffix))
    for suffix in ("gif", "avif", "heic", "HEIC", "hif", "jp2", "j2k", "ppm"):
        kind = {"heic": "HEIF", "HEIC": "HEIF", "hif": "HEIF"}.get(suffix)
        options = {"quality": 95} if suffix in ("avif", "heic", "HEIC", "hif") else {}
        picture.save(path(f"kinds/b.{suffix}"), kind, **options)
    gray.save(path("kinds/c.pgm", GRAYS))
    gray.convert("1", dither=Image.Dither.NONE).save(
        path("kinds/d.pbm", (GRAYS > 127).astype(np.uint8) * 255)
    )
    for mode in ("RGB", "RGBA", "CMYK", "YCbCr", "P"):
        picture.convert(mode).save(path(f"modes/{mode}.tif"))
    for mode in ("RGBA", "P"):
        picture.convert(mode).save(path(f"modes/{mode}.png"))
    for mode in ("L", "LA", "P"):
        gray.convert(mode).save(path(f"modes/gray {mode}.png", GRAYS))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    ImageCms.applyTransform(picture, to_lab).save(path("modes/LAB.tif"))
    for orientation, store in STORED.items():
        stored = Image.fromarray(np.ascontiguousarray(store(PICTURE)))
        stored.save(path(f"turned/{orientation}.jpg"), exif=exif(orientation), quality=95)
    for bits in (8, 10, 12, 14, 16):
        values = np.round(GRAY * ((2**bits - 1) / 255)).astype(np.uint16)
        Image.fromarray(values).save(path(f"deep/gray {bits}.png", GRAYS))
        values = np.round(PICTURE * ((2**bits - 1) / 255)).astype(np.uint16)
        write_deep_png(path(f"deep/rgb {bits}.png", COLOURS), values)
        write_tiff(path(f"deep/rgb {bits}.tif", COLOURS), values)
        header = b"P6 96 64 65535\n" if bits > 8 else b"P6 96 64 256\n"
        path(f"deep/rgb {bits}.ppm", COLOURS).write_bytes(header + values.astype(">u2").tobytes())
    unit = GRAY.astype(np.float32) / 255
    Image.fromarray(unit).save(path("deep/float.tif", GRAYS))
    Image.fromarray(unit * 255).save(path("deep/float 255.tif", GRAYS))
    Image.fromarray(unit * 3 - 1).save(path("deep/float negative.tif", _full_range(GRAYS)))
    Image.fromarray(GRAY.astype(np.int32) * 1000).save(path("deep/int32.tif", _full_range(GRAYS)))
    # The fourth band is 0; read as transparency, it would make the whole image transparent.
    fourth = np.dstack([PICTURE, np.zeros_like(GRAY)])
    for name, extra in (("unspecified", (0,)), ("undeclared", None)):
        write_tiff(path(f"bands/{name}.tif"), fourth, extra=extra)
        write_tiff(path(f"bands/{name} 16.tif"), fourth.astype(np.uint16) * 257, extra=extra)
    write_tiff(path("bands/five.tif"), np.dstack([fourth, fourth[..., 3]]), extra=(0, 0))
    write_tiff(path("bands/transparent.tif", 0 * COLOURS + 255), fourth, extra=(2,))
    (path("names/line\nbreak.jpg")).write_bytes(jpeg())
    (path("names/  spaces and ärger & 写真.jpg")).write_bytes(jpeg())
    (path("names/quote'\"$(x)`.jpg")).write_bytes(jpeg())
    (path("names/folder.jpg/inside.jpg")).write_bytes(jpeg())
    picture.save(path("names/really a PNG.jpg"), "PNG")
    picture.save(path("names/really a HEIC.png"), "HEIF", quality=95)
    return found


def _full_range(values: np.ndarray) -> np.ndarray:
    """Values scaled so that the smallest becomes 0 and the largest 255."""
    low, high = int(values.min()), int(values.max())
    return np.round((values.astype(float) - low) / (high - low) * 255).astype(np.uint8)


def write_frames(root: Path) -> set[str]:
    """Write images of several frames or pages, the first of which is PICTURE; gives their names."""
    first, second = Image.fromarray(PICTURE), Image.new("RGB", (96, 64), "white")
    root.mkdir(parents=True, exist_ok=True)
    names = {"animated.gif", "animated.webp", "animated.png", "pages.tif"}
    for name in names:
        options = {"lossless": True} if name.endswith("webp") else {}
        first.save(root / name, save_all=True, append_images=[second], **options)
    return names


def write_broken(root: Path) -> dict[str, str]:
    """Write files that look like images but cannot be used; gives name → text of the reason."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "zero bytes.jpg").touch()
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for suffix in ("jpg", "heic", "avif", "gif", "jp2", "ppm"):
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG", "heic": "HEIF", "jp2": "JPEG2000"}.get(suffix, suffix)
        Image.fromarray(noise).save(buffer, kind)
        (root / f"cut.{suffix}").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (root / "text.png").write_text("not a picture")
    (root / "drawing.tif").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (root / "nothing behind.jpg").symlink_to("nowhere.jpg")
    (root / "itself.jpg").symlink_to("itself.jpg")
    os.mkfifo(root / "pipe.jpg")
    write_tiff(root / "bands.tif", np.zeros((64, 96, 7), np.uint8), photometric=1)
    Image.new("RGB", (1, 1)).save(root / "one pixel.png")
    return {
        "zero bytes.jpg": "empty file",
        **{f"cut.{kind}": "truncated or damaged" for kind in ("jpg", "heic", "gif", "jp2", "ppm")},
        "cut.avif": "not an image of a known format",
        "text.png": "not an image of a known format",
        "drawing.tif": "not an image of a known format",
        "nothing behind.jpg": "missing file",
        "itself.jpg": "unreadable: Too many levels of symbolic links",
        "pipe.jpg": "unreadable: not a regular file",
        "bands.tif": "a TIFF whose number of bands or bits",
        "one pixel.png": "too small",
    }


def write_others(root: Path) -> dict[str, int]:
    """Write files that are not images; gives type → number of files."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("notes.txt", "more.TXT", "raw.CR2", "no suffix", ".hidden.jpg", "Thumbs.db"):
        (root / name).write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / ".cache" / "a.jpg").write_bytes(jpeg())
    (root / "loop").symlink_to(".")
    found = {
        ".txt": 2,
        ".cr2": 1,
        ".db": 1,
        "without suffix": 1,
        "hidden file": 1,
        "hidden folder": 1,
        "link to a folder that contains it": 1,
    }
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.jpg")).write_bytes(jpeg())
    except OSError:
        return found  # this file system allows only names in UTF-8
    return {**found, "with a name that is not UTF-8": 1}
