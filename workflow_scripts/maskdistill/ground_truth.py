"""Labels of PASCAL VOC and COCO datasets, read by the evaluation and by nothing before it."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from workflow_scripts.maskdistill import label_maps
from workflow_scripts.maskdistill.datasets import read_coco
from workflow_scripts.maskdistill.errors import InputError


class Instance(NamedTuple):
    """One annotated object."""

    mask: np.ndarray  # H x W bool
    class_id: int  # 1..K
    crowd: bool


def has_ground_truth(dataset: Mapping) -> bool:
    """Whether the dataset's description in the config promises labels."""
    return bool(dataset["ground_truth"])


class GroundTruth:
    """The labels of one split.

    Args:
        dataset: the dataset's description in the config.
        root: folder that its paths are relative to.
        split: a key of the dataset's `splits`.

    Raises:
        InputError: no labels where the config promises some.
    """

    def __init__(self, dataset: Mapping, root: Path, split: str) -> None:
        self._root = root
        self._adapter = dataset["adapter"]
        if not has_ground_truth(dataset):
            raise InputError(f"{root}: the config says that this dataset has no ground truth")
        if self._adapter == "voc":
            self.class_names = tuple(dataset["classes"])
            folder = root / "SegmentationClass"
            if not folder.is_dir():
                raise InputError(
                    f"{folder}: no such folder; without labels set ground_truth: false"
                )
        else:
            content = read_coco(root / dataset["splits"][split]["annotations"])
            categories = sorted(content.get("categories", []), key=lambda c: c["id"])
            self.class_names = tuple(category["name"] for category in categories)
            self._class_ids = {c["id"]: i for i, c in enumerate(categories, start=1)}
            self._sizes = {e["id"]: (e["height"], e["width"]) for e in content["images"]}
            self._annotations: dict[int, list[dict]] = {}
            for annotation in content.get("annotations", []):
                self._annotations.setdefault(annotation["image_id"], []).append(annotation)

    def semantic(self, image_id: int, file_name: str) -> np.ndarray:
        """The label map of one image.

        Of COCO's instances, smaller objects cover larger ones; crowds are ignored.

        Returns:
            H x W uint8 (uint16 beyond 254 classes): 0 background, 1..K classes, and 255 ignore.

        Raises:
            InputError: missing or damaged label map.
        """
        if self._adapter == "voc":
            path = self._voc_path("SegmentationClass", file_name)
            augmented = self._voc_path("SegmentationClassAug", file_name)  # of train_aug
            if not path.is_file() and augmented.is_file():
                path = augmented
            return label_maps.read_png(path)
        instances = self.instances(image_id, file_name)
        labels = np.zeros(self._sizes[image_id], dtype=label_maps.dtype(len(self.class_names)))
        for instance in instances:
            if instance.crowd:
                labels[instance.mask] = label_maps.ignore_value(labels)
        for instance in sorted(instances, key=lambda i: -int(i.mask.sum())):
            if not instance.crowd:
                labels[instance.mask] = instance.class_id
        return labels

    def instances(self, image_id: int, file_name: str) -> list[Instance]:
        """The annotated objects of one image.

        Raises:
            InputError: missing or damaged label map.
        """
        if self._adapter == "voc":
            return self._voc_instances(image_id, file_name)
        size = self._sizes[image_id]
        return [
            Instance(
                _annotation_mask(annotation["segmentation"], size),
                self._class_ids[annotation["category_id"]],
                bool(annotation.get("iscrowd", 0)),
            )
            for annotation in self._annotations.get(image_id, [])
        ]

    def _voc_instances(self, image_id: int, file_name: str) -> list[Instance]:
        path = self._voc_path("SegmentationObject", file_name)
        objects = label_maps.read_png(path)
        classes = self.semantic(image_id, file_name)
        if objects.shape != classes.shape:
            raise InputError(f"{path}: of another size than the image's map of classes")
        found = []
        for value in np.unique(objects[(objects > 0) & (objects < label_maps.IGNORE)]):
            mask = objects == value
            inside = classes[mask]
            inside = inside[(inside > 0) & (inside != label_maps.ignore_value(classes))]
            if not len(inside):
                raise InputError(
                    f"{path}: object {value} has no pixel of a class in the map of classes; "
                    "correct one of the two"
                )
            found.append(Instance(mask, int(np.bincount(inside).argmax()), False))
        return found

    def _voc_path(self, folder: str, file_name: str) -> Path:
        return self._root / folder / f"{PurePosixPath(file_name).stem}.png"


def _annotation_mask(segmentation: list | Mapping, size: tuple[int, int]) -> np.ndarray:
    """Polygons, uncompressed or compressed run lengths to an H x W bool mask."""
    if isinstance(segmentation, list):
        # Points and lines, which pycocotools refuses, enclose nothing.
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros(size, dtype=bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, *size)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)
