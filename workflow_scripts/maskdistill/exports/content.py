"""Content of an exported dataset: images, label maps, confident objects, and any ground truth."""

import collections
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from workflow_scripts.maskdistill.files import images, label_maps, shards
from workflow_scripts.maskdistill.progress import progress


class Picture(NamedTuple):
    """One image and its results."""

    image_id: int
    file_name: str  # relative to the dataset's root
    name: str  # name in the export, with the suffix of the image
    height: int
    width: int
    labels: np.ndarray  # H x W, 0 background, 1..K
    objects: list[Mapping]  # rows of the stage `confident`
    truth: np.ndarray | None  # H x W, 0 background, 1.., 255 ignore

    def with_suffix(self, suffix: str) -> str:
        """The name with another suffix, which is as unique as the name (see `export_names`)."""
        return str(PurePosixPath(self.name).with_suffix(suffix))


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content that formats can write; each call of `pictures()` reads the images again."""

    dataset: str
    root: Path
    split: str
    names: Sequence[str]  # names of pseudo-classes 1..K
    truth_names: Sequence[str] | None  # names of the classes of the ground truth
    pictures: Callable[[], Iterator[Picture]]
    pseudo_labels: Path  # COCO dataset file of the training images
    polygons: bool  # whether the format coco also has copies with polygons
    polygon_tolerance: float  # pixels


def export_names(file_names: Iterable[str]) -> dict[str, str]:
    """File name → name in an export.

    The common folder of all files is left out. If `a.jpg` and `a.png` are in one folder, they are
    renamed `a_jpg.jpg` and `a_png.png`, because their label files would have the same name.
    """
    file_names = list(file_names)
    common = os.path.commonpath([str(PurePosixPath(n).parent) for n in file_names] or ["."])
    short = {
        n: PurePosixPath(n) if common in ("", ".") else PurePosixPath(n).relative_to(common)
        for n in file_names
    }
    counts = collections.Counter(path.with_suffix("") for path in short.values())
    names = {
        n: str(p if counts[p.with_suffix("")] == 1 else p.with_stem(f"{p.stem}_{p.suffix[1:]}"))
        for n, p in short.items()
    }
    if len({PurePosixPath(name).with_suffix("") for name in names.values()}) < len(names):
        # Rare: names still clash, for example with a file `a_jpg.png`. Then all get a number.
        names = {n: str(p.with_name(f"{i}_{p.name}")) for i, (n, p) in enumerate(short.items())}
    return names


def read_pictures(
    manifests: Sequence[Path],
    confident: Sequence[Path],
    predictions: Sequence[Path],
    truth: Callable[[int, str], np.ndarray] | None = None,
) -> Iterator[Picture]:
    """Stream the usable images with their results.

    Args:
        manifests, confident, predictions: shards of three stages, in the same order.
        truth: gives the ground truth of an image by its id and file name.

    Raises:
        InputError: the shards have different images.
    """
    listed = list(map(shards.read_usable, manifests))
    names = export_names(row["file_name"] for rows in listed for row in rows)

    def stream() -> Iterator[Picture]:
        for rows, confident_path, predicted_path in zip(
            listed, confident, predictions, strict=True
        ):
            objects = shards.group_by_image(confident_path)
            found = {image_id: data for image_id, _, data in label_maps.read_shard(predicted_path)}
            ids = [row["image_id"] for row in rows]
            shards.assert_same_images(ids, objects, str(confident_path))
            shards.assert_same_images(ids, found, str(predicted_path))
            for row in rows:
                image_id, file_name = row["image_id"], row["file_name"]
                yield Picture(
                    image_id,
                    file_name,
                    names[file_name],
                    row["height"],
                    row["width"],
                    found[image_id],
                    [o for o in objects[image_id] if o["candidate_id"] is not None],
                    truth(image_id, file_name) if truth else None,
                )

    yield from progress(stream(), description="export", unit="image", total=sum(map(len, listed)))


def copy_image(source: Path, target: Path) -> None:
    """Copy an image byte by byte, or turned upright if its EXIF orientation requires it.

    Label maps belong to the upright image, and not all tools read EXIF data.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    images.register_heif()
    # Pillow would lose the orientation of some TIFF files if it got their path, see `images._open`.
    with open(source, "rb") as file, Image.open(file) as image:
        if image.getexif().get(0x0112, 1) != 1:
            upright = ImageOps.exif_transpose(image)
            options = {"quality": 95} if image.format in ("JPEG", "WEBP") else {}
            upright.save(target, format=image.format, **options)
            return
    shutil.copyfile(source, target)


def write_label_map(labels: np.ndarray, path: Path, *, palette: bool = True) -> None:
    """Write a label map as PNG; its folder is made if missing.

    Args:
        palette: whether 8-bit maps have VOC's palette. Some tools would read its colours instead of
            the labels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if palette:
        path.write_bytes(label_maps.encode_png(labels))
    else:
        Image.fromarray(labels).save(path)
