"""Pseudo-labels in a COCO dataset file as a torch data set: decoding and augmentation."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from workflow_scripts.maskdistill import images, masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.json_files import read_json
from workflow_scripts.maskdistill.sampling import Sample


class Example(NamedTuple):
    """One training image, resized and possibly mirrored."""

    image: Tensor  # 3 x H x W, uint8, RGB
    boxes: Tensor  # n x 4, float32, XYXY in pixels
    labels: Tensor  # n, int64, 1..C
    masks: Tensor  # n x H x W, uint8, 0 or 1


class PseudoLabels(Dataset):
    """The annotated images of a COCO dataset file; an item is made for a place in the plan.

    Args:
        path: COCO dataset file with category ids 1..C and masks as compressed RLE.
        root: folder that its file names are relative to.
        sides: shorter sides in pixels, of which every place draws one.
        longer_side: bound on the longer side.
        flip: mirror half of the images.
        seed: with the place in the plan, decides side and mirroring.

    Raises:
        InputError: not such a file, or none of its images is annotated.
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
        content = read_json(self.path, remedy="run write_pseudo_labels first")
        try:
            self.clusters = self._count_clusters(content["categories"])
            records = {int(record["id"]): record for record in content["images"]}
            annotations: dict[int, list[dict]] = {}
            for annotation in content["annotations"]:
                self._check(annotation, records)
                annotations.setdefault(annotation["image_id"], []).append(annotation)
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: not a COCO dataset file (at {error})") from error
        # Images without an object teach nothing and are left out; the order is that of the ids,
        # whatever the order in the file.
        self._images = [(records[key], annotations[key]) for key in sorted(annotations)]
        if not self._images:
            raise InputError(
                f"{path}: none of the {len(records)} images is annotated; "
                "check the masks and clusters that it was made of"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, sample: Sample) -> Example:
        """The image at a place in the plan.

        Raises:
            InputError: the image cannot be read, or is not of the size in the file.
        """
        record, annotations = self._images[sample.index]
        rng = sample.generator(self.seed)
        side, mirrored = int(rng.choice(self.sides)), self.flip and rng.random() < 0.5
        image = images.read_listed(
            self.root / record["file_name"], (record["height"], record["width"])
        )
        size = images.resized_size(
            *image.shape[:2], shorter_side=side, longer_side=self.longer_side
        )
        pixels = images.resize(image, size)
        instances = np.stack([masks.resize_mask(_decode(a), size) for a in annotations])
        boxes = _resized_boxes([a["bbox"] for a in annotations], image.shape[:2], size)
        if mirrored:
            pixels, instances = pixels[:, ::-1], instances[:, :, ::-1]
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        return Example(
            torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            torch.from_numpy(boxes),
            torch.tensor([a["category_id"] for a in annotations]),
            torch.from_numpy(np.ascontiguousarray(instances, dtype=np.uint8)),
        )

    def _count_clusters(self, categories: list[dict]) -> int:
        ids = sorted(category["id"] for category in categories)
        if not ids or ids != list(range(1, len(ids) + 1)):
            raise InputError(f"{self.path}: category ids are not 1..C; write_pseudo_labels does so")
        return len(ids)

    def _check(self, annotation: dict, records: dict[int, dict]) -> None:
        name = f"{self.path}: annotation {annotation['id']}"
        record = records.get(annotation["image_id"])
        if record is None:
            raise InputError(f"{name} is of image {annotation['image_id']}, which is not listed")
        if not 1 <= annotation["category_id"] <= self.clusters:
            raise InputError(
                f"{name} is of category {annotation['category_id']}, which is not listed"
            )
        segmentation = annotation["segmentation"]
        if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
            raise InputError(f"{name}: the mask is not compressed RLE; write_pseudo_labels does so")
        if list(segmentation["size"]) != [record["height"], record["width"]]:
            raise InputError(f"{name}: the mask is not of the image's size")
        if min(annotation["bbox"][2:]) <= 0:
            raise InputError(f"{name}: the mask is empty")


def _decode(annotation: dict) -> np.ndarray:
    height, width = annotation["segmentation"]["size"]
    return masks.decode(annotation["segmentation"]["counts"].encode("ascii"), height, width)


def _resized_boxes(
    boxes: list[list[float]], old: tuple[int, int], new: tuple[int, int]
) -> np.ndarray:
    """XYWH boxes in an image of size `old` as XYXY boxes at size `new`, at least a pixel wide."""
    x, y, width, height = np.array(boxes, dtype=np.float64).T
    corners = np.stack([x, y, x + width, y + height], axis=1)
    corners *= np.array([new[1] / old[1], new[0] / old[0]] * 2)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return corners.astype(np.float32)
