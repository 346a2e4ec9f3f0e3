"""A torch data set of the pseudo-labels in a COCO dataset file, with augmentation."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import image_sizes, images, masks
from workflow_scripts.maskdistill.files.json_io import read_entries
from workflow_scripts.maskdistill.torch_tools.sampling import Sample

# Arrow tables take a quarter of the memory of dictionaries, and loading processes share them.
_IMAGES = pa.schema(
    {"id": pa.int64(), "file_name": pa.string(), "height": pa.int32(), "width": pa.int32()}
)
_ANNOTATIONS = pa.schema(
    {
        "image_id": pa.int64(),
        "category_id": pa.int32(),
        "bbox": pa.list_(pa.float64(), 4),
        "rle_counts": pa.large_binary(),
    }
)


class Example(NamedTuple):
    """One training image, resized and possibly mirrored."""

    image: Tensor  # 3 x H x W, uint8, RGB
    boxes: Tensor  # n x 4, float32, XYXY in pixels
    labels: Tensor  # n, int64, 1..C
    masks: Tensor  # n x H x W, uint8, 0 or 1


class PseudoLabels(Dataset):
    """The annotated images of a COCO dataset file; items are indexed by a `Sample`.

    Args:
        path: COCO dataset file with category ids 1..C and masks as compressed RLE.
        root: folder that the file names in it are relative to.
        sides: shorter sides in pixels; one is drawn for every item.
        longer_side: upper bound on the longer side in pixels.
        flip: mirror half of the images.
        seed: seeds, together with the `Sample`, the choice of side and mirroring.

    Raises:
        InputError: the file is not as described, or none of its images is annotated.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        root: str | os.PathLike,
        *,
        sides: tuple[int, ...],
        longer_side: int,
        flip: bool,
        seed: int,
    ) -> None:
        self.path, self.root = Path(path), Path(root)
        self.sides, self.longer_side, self.flip, self.seed = sides, longer_side, flip, seed
        entries = functools.partial(read_entries, self.path, remedy="run write_pseudo_labels first")
        try:
            self.clusters = self._count_clusters(entries("categories"))
            images = _table(map(_image_row, entries("images")), _IMAGES).sort_by("id")
            ids = images["id"].to_numpy()
            sizes = np.stack([images[side].to_numpy() for side in ("height", "width")], axis=1)
            rows = (self._annotation_row(entry, ids, sizes) for entry in entries("annotations"))
            # Annotations of one image keep the order of the file.
            self._annotations = _table(rows, _ANNOTATIONS).sort_by("image_id").combine_chunks()
        except (KeyError, TypeError, pa.ArrowInvalid) as error:
            raise InputError(
                f"{path}: not a COCO dataset file (at {error}); run write_pseudo_labels again"
            ) from error
        # Images without an object are left out; the others are sorted by id.
        annotated, self._starts = np.unique(
            self._annotations["image_id"].to_numpy(), return_index=True
        )
        self._starts = np.append(self._starts, len(self._annotations))
        chosen = np.searchsorted(ids, annotated)
        self._sizes = sizes[chosen]
        self._file_names = images["file_name"].combine_chunks().take(pa.array(chosen))
        if not len(chosen):
            raise InputError(
                f"{path}: none of the {len(images)} images is annotated; "
                "check the masks and clusters from which the file was made"
            )

    def __len__(self) -> int:
        return len(self._file_names)

    def __getitem__(self, sample: Sample) -> Example:
        """The training image of a `Sample`.

        Raises:
            InputError: the image cannot be read, or does not have the size given in the COCO file.
        """
        first, end = self._starts[sample.index : sample.index + 2]
        annotations = self._annotations.slice(first, end - first).to_pylist()
        rng = sample.generator(self.seed)
        side, mirrored = int(rng.choice(self.sides)), self.flip and rng.random() < 0.5
        own = tuple(self._sizes[sample.index].tolist())
        size = image_sizes.resized_size(*own, shorter_side=side, longer_side=self.longer_side)
        name = self._file_names[sample.index].as_py()
        pixels = images.read_listed(self.root / name, own, size)
        instances = np.stack(
            [masks.resize_mask(masks.decode(a["rle_counts"], *own), size) for a in annotations]
        )
        boxes = _resized_boxes([a["bbox"] for a in annotations], own, size)
        if mirrored:
            pixels, instances = pixels[:, ::-1], instances[:, :, ::-1]
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        return Example(
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(boxes),
            torch.tensor([a["category_id"] for a in annotations]),
            torch.from_numpy(np.ascontiguousarray(instances, dtype=np.uint8)),
        )

    def _count_clusters(self, categories: Iterable[dict]) -> int:
        ids = sorted(category["id"] for category in categories)
        if not ids:
            raise KeyError("categories")
        if ids != list(range(1, len(ids) + 1)):
            raise InputError(
                f"{self.path}: category ids are not 1..C; use a file of write_pseudo_labels"
            )
        return len(ids)

    def _annotation_row(self, annotation: dict, ids: np.ndarray, sizes: np.ndarray) -> dict:
        name = f"{self.path}: annotation {annotation['id']}"
        place = np.searchsorted(ids, annotation["image_id"])
        if ids[place : place + 1].tolist() != [annotation["image_id"]]:
            raise InputError(
                f"{name} belongs to image {annotation['image_id']}, which is not in the file; "
                "run write_pseudo_labels again"
            )
        if not 1 <= annotation["category_id"] <= self.clusters:
            raise InputError(
                f"{name} has category {annotation['category_id']}, which is not in the file; "
                "run write_pseudo_labels again"
            )
        segmentation = annotation["segmentation"]
        if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
            raise InputError(
                f"{name}: the mask is not compressed RLE; use a file of write_pseudo_labels"
            )
        if segmentation["size"] != sizes[place].tolist():
            raise InputError(
                f"{name}: the mask does not have the image's size; run write_pseudo_labels again"
            )
        if min(annotation["bbox"][2:]) <= 0:
            raise InputError(f"{name}: the mask is empty; run write_pseudo_labels again")
        return {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "rle_counts": segmentation["counts"].encode("ascii"),
        }


def _image_row(record: dict) -> dict:
    return {field.name: record[field.name] for field in _IMAGES}


def _table(rows: Iterator[dict], schema: pa.Schema) -> pa.Table:
    """Convert rows to columns, a few thousand at a time."""
    batches = []
    while part := list(itertools.islice(rows, 4096)):
        batches.append(pa.RecordBatch.from_pylist(part, schema))
    return pa.Table.from_batches(batches, schema)


def _resized_boxes(
    boxes: list[list[float]], old: tuple[int, int], new: tuple[int, int]
) -> np.ndarray:
    """Scale XYWH boxes from image size `old` to `new`: XYXY, at least one pixel wide and high."""
    x, y, width, height = np.array(boxes, dtype=np.float64).T
    corners = np.stack([x, y, x + width, y + height], axis=1)
    corners *= np.array([new[1] / old[1], new[0] / old[0]] * 2)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return corners.astype(np.float32)
