"""Training data for Detectron2 from pseudo-labels: a registered data set with augmentation."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as augmentation
from detectron2.data.datasets import register_coco_instances
from torch.utils.data import Dataset

from workflow_scripts.maskdistill.files import images
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import Example
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools.sampling import Sample


@contextlib.contextmanager
def registered(pseudo_labels: Path, root: Path) -> Iterator[str]:
    """Register a COCO dataset file with Detectron2 for the duration of the block.

    Yields:
        The name under which it is registered.
    """
    name = f"maskdistill_{uuid.uuid4().hex}"
    register_coco_instances(name, {}, str(pseudo_labels), str(root))
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


class RegisteredDataset(Dataset):
    """The annotated images of a registered data set; items are indexed by a `Sample`.

    Images are read by `files.images`, and are resized and mirrored by Detectron2's functions.

    Args:
        name: name of the registered data set.
        seed: seeds, together with the `Sample`, the choice of side and mirroring.
    """

    def __init__(self, name: str, settings: MaskRCNNSettings, *, seed: int) -> None:
        self._records = DatasetFromList(get_detection_dataset_dicts(name), copy=False)
        self._seed = seed
        chosen = [
            augmentation.ResizeShortestEdge(settings.train_sides, settings.longer_side, "choice")
        ]
        if settings.flip:
            chosen.append(augmentation.RandomFlip())
        self._augment = augmentation.AugmentationList(chosen)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, sample: Sample) -> Example:
        """The training image of a `Sample`.

        Raises:
            InputError: the image cannot be read, or does not have the size given in the COCO file.
        """
        record = self._records[sample.index]
        image = images.read_listed(record["file_name"], (record["height"], record["width"]))
        # Detectron2's augmentations use NumPy's global random generator.
        np.random.seed(sample.generator(self._seed).integers(2**32))
        augmented = augmentation.AugInput(image)
        transforms = self._augment(augmented)
        size = augmented.image.shape[:2]
        annotations = [
            utils.transform_instance_annotations(annotation, transforms, size)
            for annotation in record["annotations"]
        ]
        instances = utils.filter_empty_instances(
            utils.annotations_to_instances(annotations, size, mask_format="bitmask")
        )
        return Example(
            torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1))),
            instances.gt_boxes.tensor,
            instances.gt_classes + 1,
            instances.gt_masks.tensor.to(torch.uint8),
        )


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an H x W x 3 uint8 image to `size` = (height, width) as Detectron2 does."""
    return augmentation.ResizeTransform(*image.shape[:2], *size).apply_image(image)
