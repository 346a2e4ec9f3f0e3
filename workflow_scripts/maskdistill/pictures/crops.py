"""Crops of masked objects from their images."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.files import images, masks, shards
from workflow_scripts.maskdistill.pictures import drawing

Key = tuple[int, int]  # image_id, mask_id


def nearest(keys: Sequence[Key], distances: Sequence[float], count: int) -> list[Key]:
    """The masks nearest to their centroid, nearest first; equally near ones are sorted by key."""
    order = sorted(range(len(keys)), key=lambda i: (distances[i], keys[i]))
    return [keys[i] for i in order[:count]]


def read_crops(
    wanted: Iterable[Key],
    manifests: Iterable[Path],
    mask_shards: Iterable[Path],
    root: Path,
    size: int,
) -> dict[Key, np.ndarray]:
    """Crop masked objects from their images; each image is read once.

    Args:
        wanted: masks with status ok.
        manifests: shards that list their images.
        mask_shards: shards of the masks.
        root: folder that file names are relative to.
        size: side of a crop, in pixels.

    Returns:
        (image_id, mask_id) → size x size x 3 uint8.

    Raises:
        InputError: an image can no longer be read.
    """
    wanted = set(wanted)
    found = defaultdict(dict)
    for path in mask_shards:
        for row in shards.read_rows(path, ["image_id", "mask_id", "rle_counts", "height", "width"]):
            if (row["image_id"], row["mask_id"]) in wanted:
                found[row["image_id"]][row["mask_id"]] = row
    result = {}
    for path in manifests:
        for listed in shards.read_rows(path):
            # Two splits may list the same image. `pop` leaves it out the second time.
            rows = found.pop(listed["image_id"], {})
            if rows:
                image = images.read_listed(
                    root / listed["file_name"], (listed["height"], listed["width"])
                )
            for mask_id, row in rows.items():
                crop = drawing.masked_crop(image, masks.decode_row(row), size)
                result[listed["image_id"], mask_id] = crop
    return result
