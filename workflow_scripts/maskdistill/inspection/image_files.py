"""Descriptions of label maps and pictures."""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.files import images, label_maps, shards
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.inspection.blocks import (
    CLUSTERS_SHOWN,
    Lines,
    damaged,
    distributions,
)
from workflow_scripts.maskdistill.progress import progress


def label_map_shards(paths: Sequence[Path], rows: int, sample: int) -> Lines:
    """Statistics of the labels in shards of label maps.

    Args:
        rows: number of rows of all shards.
        sample: number of label maps that are decoded, evenly spread; 0 for all.

    Raises:
        InputError: a file is damaged.
    """
    wanted = _spread(rows, sample)
    position = 0
    decoded = []
    for path in progress(paths, description="label maps", unit="shard"):
        for row in shards.read_rows(path):
            if position in wanted:
                try:
                    decoded.append(_label_counts(label_maps.decode_png(row["image"]["bytes"])))
                except (OSError, ValueError, SyntaxError) as error:
                    what = f"the label map of {row['file_name']} cannot be decoded"
                    raise damaged(path, what, error) from error
            position += 1
    yield from _label_statistics(decoded, rows)


def pictures(paths: Sequence[Path], sample: int, *, check: bool = False) -> Lines:
    """Describe PNG files of label maps, or other pictures.

    Args:
        paths: files of one kind.
        sample: number of label maps that are decoded, evenly spread; 0 for all.
        check: decode every picture completely.

    Raises:
        InputError: a file is damaged.
    """
    _probe(paths[0])
    if _is_label_map(paths[0]):
        return _label_map_files(paths, 0 if check else sample)
    if check:
        for path in progress(paths, description="pictures", unit="picture"):
            decode(path)
    return _describe_pictures(paths)


def _probe(path: Path) -> tuple[int, int]:
    try:
        return images.probe_image(path).size
    except images.ImageRejected as rejection:
        raise damaged(path, "not a readable image", rejection) from rejection


def decode(path: Path) -> None:
    """Decode a whole picture, and also verify a PNG's checksums, which Pillow's decoder skips.

    Raises:
        InputError: the file is damaged.
    """
    images.register_heif()
    try:
        with Image.open(path) as image:
            image.verify()
        images.read_image(path)
    except (images.ImageRejected, OSError, SyntaxError, ValueError) as error:
        raise damaged(path, "not a readable image", error) from error


def _is_label_map(path: Path) -> bool:
    images.register_heif()
    with Image.open(path) as image:
        return image.format == "PNG" and (image.mode in ("P", "L") or image.mode[:4] == "I;16")


def _label_map_files(paths: Sequence[Path], sample: int) -> Lines:
    bytes_ = sum(path.stat().st_size for path in paths)
    yield terminal.plain(paths[0] if len(paths) == 1 else paths[0].parent)
    yield f"  {len(paths):,} label map{'s' * (len(paths) > 1)} as PNG, {terminal.size(bytes_)}"
    yield from labels_of_files(paths, sample)


def labels_of_files(paths: Sequence[Path], sample: int) -> Lines:
    """Statistics of the labels in label maps that are stored as PNG files.

    Args:
        sample: number of label maps that are decoded, evenly spread; 0 for all.

    Raises:
        InputError: a file is damaged.
    """
    wanted = _spread(len(paths), sample)
    decoded = []
    for i, path in enumerate(progress(paths, description="label maps", unit="label map")):
        if i in wanted:
            decode(path)
            decoded.append(_label_counts(label_maps.read_png(path)))
    yield from _label_statistics(decoded, len(paths))


def _describe_pictures(paths: Sequence[Path]) -> Lines:
    bytes_ = sum(path.stat().st_size for path in paths)
    sizes = np.array([_probe(path) for path in paths])
    images.register_heif()
    with Image.open(paths[0]) as image:
        kind = f"{image.format} {image.mode}"
    if len(paths) == 1:
        height, width = sizes[0]
        yield terminal.plain(paths[0])
        yield f"  image, {kind}: {height} x {width} px, {terminal.size(bytes_)}"
        return
    yield terminal.plain(paths[0].parent)
    yield f"  {len(paths):,} images, {kind}: {terminal.size(bytes_)}"
    yield from distributions({"height": sizes[:, 0], "width": sizes[:, 1]})


def _spread(count: int, sample: int) -> set[int]:
    """`sample` evenly spread positions of 0..count - 1; all of them if `sample` is 0."""
    if not sample or sample >= count:
        return set(range(count))
    return {int((i + 0.5) * count / sample) for i in range(sample)}


def _label_counts(labels: np.ndarray) -> dict[str, int]:
    """Label → number of pixels; the key of ignored pixels is "ignore"."""
    values, counts = np.unique(labels, return_counts=True)
    ignore = label_maps.ignore_value(labels)
    return {
        "ignore" if value == ignore else str(value): int(count)
        for value, count in zip(values, counts, strict=True)
    }


def _label_statistics(decoded: Sequence[Mapping[str, int]], total: int) -> Lines:
    pixels: collections.Counter = collections.Counter()
    found: collections.Counter = collections.Counter()
    for counts in decoded:
        pixels.update(counts)
        found.update(dict.fromkeys(counts, 1))
    of = "" if len(decoded) == total else f" (of a sample of {len(decoded):,}, evenly spread)"
    empty = sum(set(counts) <= {"0"} for counts in decoded)
    yield from ["", f"  {empty:,} images hold background only{of}"]
    all_pixels = sum(pixels.values())
    order = sorted(pixels, key=lambda label: (label != "0", -pixels[label]))
    rows = [
        [
            "0 background" if label == "0" else label,
            found[label],
            f"{pixels[label] / all_pixels:.2%}",
            terminal.bar(pixels[label] / all_pixels),
        ]
        for label in order[: CLUSTERS_SHOWN + 1]
    ]
    yield from ["", *terminal.table(["label", "images", "pixels", ""], rows)]
    if len(order) > len(rows):
        yield f"  … and {len(order) - len(rows)} rarer labels"
