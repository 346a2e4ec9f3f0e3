"""Label maps: one class or cluster per pixel, stored as PNG.

They are 8-bit palette images with PASCAL VOC's colours: 0 is background, 1..C are clusters, and 255
is ignore. With more than 254 clusters they are 16-bit grayscale images, and 65535 is ignore.
"""

import io
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.files.text_files import read_lines

IGNORE = 255
IGNORE_16_BIT = 65535


def _voc_palette() -> np.ndarray:
    """PASCAL VOC's colours: the bits of the label, spread over the high bits of R, G and B."""
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


PALETTE = _voc_palette()  # uint8, 256 x 3
VOID_COLOUR = (224, 224, 192)  # colour of ignored pixels, the last one of the palette


def encode_png(labels: np.ndarray) -> bytes:
    """Encode a label map.

    Args:
        labels: H x W, integers; uint8 gives a palette image with VOC's colours, uint16 a 16-bit
            grayscale one.

    Returns:
        The bytes of a PNG file.

    Raises:
        ValueError: any other dtype.
    """
    if labels.dtype == np.uint8:
        image = Image.fromarray(labels)
        image.putpalette(PALETTE.tobytes())
    elif labels.dtype == np.uint16:
        image = Image.fromarray(labels)
    else:
        raise ValueError(f"label maps are uint8 or uint16, not {labels.dtype}")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Decode a label map to H x W, uint8 or uint16; the palette's colours are ignored.

    Raises:
        ValueError: not a palette or grayscale PNG.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ("P", "L"):
            return np.array(image)
        if image.mode.startswith("I;16"):
            return np.array(image).astype(np.uint16)
        raise ValueError(f"label maps are palette or grayscale images, not {image.mode}")


def png_size(data: bytes) -> tuple[int, int]:
    """(height, width) of a label map, from the header of its PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


def decode_colours(data: bytes) -> np.ndarray | None:
    """Decode the colours of a label map to H x W x 3, uint8; None for a grayscale image.

    Raises:
        ValueError: an image of another kind.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ("RGB", "RGBA", "P"):
            return np.array(image.convert("RGB"))
        if image.mode == "L" or image.mode.startswith("I;16"):
            return None
        raise ValueError(f"label maps are palette, RGB or grayscale images, not {image.mode}")


def read_png(path: str | os.PathLike) -> np.ndarray:
    """Read a label map from a file, as `decode_png`.

    Raises:
        InputError: missing, damaged or not a label map.
    """
    return _decoded(
        path,
        decode_png,
        "; if its colours stand for classes, add CVAT's labelmap.txt, with the name and colour of "
        "each class, to the dataset's root",
    )


def read_coloured_png(
    path: str | os.PathLike, label_of: Callable[[tuple[int, int, int]], int], labels: int
) -> np.ndarray:
    """Read a label map whose colours stand for labels; grayscale files contain the labels.

    Args:
        label_of: gives the label of a colour (R, G, B); may raise an InputError.
        labels: number of labels without background, which determines the dtype.

    Returns:
        H x W, uint8 or uint16.

    Raises:
        InputError: missing, damaged or not a label map.
    """
    pixels = _decoded(path, decode_colours)
    if pixels is None:
        return read_png(path)
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, inverse = np.unique(codes, return_inverse=True)
    colours_found = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found]
    table = np.array([label_of(colour) for colour in colours_found], dtype=dtype(labels))
    return table[inverse].reshape(codes.shape)


def _decoded(path: str | os.PathLike, decode: Callable, remedy: str = "") -> np.ndarray | None:
    try:
        with open(path, "rb") as file:
            return decode(file.read())
    except FileNotFoundError:
        raise InputError(f"{path}: no such label map; check the dataset's paths") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not a label map ({error}){remedy}") from error


def dtype(clusters: int) -> type[np.unsignedinteger]:
    """The dtype that holds 0..clusters and the value for ignore."""
    return np.uint8 if clusters < IGNORE else np.uint16


def ignore_value(labels: np.ndarray) -> int:
    """The value that means ignore in a label map of this dtype."""
    return IGNORE if labels.dtype == np.uint8 else IGNORE_16_BIT


def without_ignore(labels: np.ndarray) -> np.ndarray:
    """A label map whose ignored pixels are background."""
    return np.where(labels == ignore_value(labels), 0, labels)


def paint(
    size: tuple[int, int], layers: Iterable[tuple[np.ndarray, int]], clusters: int
) -> np.ndarray:
    """Paint masks into one label map; later layers cover earlier ones.

    Args:
        size: (height, width).
        layers: pairs of an H x W bool mask and its cluster, 1..clusters.

    Returns:
        H x W, uint8 or uint16; 0 for pixels outside of all masks.
    """
    labels = np.zeros(size, dtype=dtype(clusters))
    for mask, cluster in layers:
        labels[mask] = cluster
    return labels


def colours(labels: np.ndarray) -> np.ndarray:
    """VOC's colours of labels: uint8, the shape of `labels` x 3.

    Beyond 254 the colours repeat, without those of background and ignore.
    """
    return PALETTE[np.where(labels > 0, (labels - 1) % (IGNORE - 1) + 1, 0)]


def legend(names: Sequence[str]) -> str:
    """The text of CVAT's labelmap.txt: name and colour of background and of clusters 1, 2, …

    Beyond 254 clusters, label maps have no colours, and the colours here repeat.
    """
    lines = ["# label:color_rgb:parts:actions"]
    for name, colour in zip(
        ["background", *names], colours(np.arange(len(names) + 1)), strict=True
    ):
        lines.append(f"{name}:{','.join(map(str, colour))}::")
    return "\n".join(lines) + "\n"


def read_legend(path: str | os.PathLike) -> dict[str, tuple[int, int, int]]:
    """Name → colour (R, G, B) of a file labelmap.txt, as `legend` and CVAT write it.

    Raises:
        InputError: a line has no name and colour, two names have one colour, or the file is not in
            UTF-8.
    """
    names: dict[tuple[int, int, int], str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        try:
            red, green, blue = map(int, rest.partition(":")[0].split(","))
        except ValueError:
            raise InputError(
                f"{path}: line {number} is not NAME:RED,GREEN,BLUE::; correct it"
            ) from None
        other = names.setdefault((red, green, blue), name)
        if other != name:
            raise InputError(
                f"{path}: {other!r} and {name!r} have the same colour; change one of them"
            )
    return {name: colour for colour, name in names.items()}


def row(image_id: int, file_name: str, labels: np.ndarray) -> dict:
    """The Parquet row of a label map (schemas label_maps and predictions)."""
    return png_row(image_id, file_name, encode_png(labels))


def png_row(image_id: int, file_name: str, png: bytes) -> dict:
    """As `row`, for a label map already encoded by `encode_png`."""
    path = os.path.splitext(file_name)[0] + ".png"
    return {
        "image_id": image_id,
        "file_name": file_name,
        "image": {"bytes": png, "path": path},
    }


def read_shard(path: str | os.PathLike) -> Iterable[tuple[int, str, np.ndarray]]:
    """Stream (image_id, file_name, label map) from a shard of label maps or predictions."""
    for entry in shards.read_rows(path):
        yield entry["image_id"], entry["file_name"], decode_png(entry["image"]["bytes"])
