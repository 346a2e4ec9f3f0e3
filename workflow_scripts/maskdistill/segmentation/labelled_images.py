"""Images with label maps, as training data of segmentation models."""

import concurrent.futures
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.files.image_sizes import bounded_size
from workflow_scripts.maskdistill.files.images import read_listed
from workflow_scripts.maskdistill.files.masks import resize_mask
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX
from workflow_scripts.maskdistill.segmentation.transforms import draw_view, warp
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.sampling import Sample


class LabelSource(NamedTuple):
    """Texts for error messages about label maps: pseudo-labels or ground truth."""

    section: str  # section of the config with the schedule of the training
    classes: str  # what the labels are: "clusters" or "classes"
    beyond: str  # remedy if a label is above the number of classes
    unlabelled: str  # remedy if no image has a label


PSEUDO_LABELS = LabelSource(
    section="segmentation",
    classes="clusters",
    beyond="remove the label maps and run again",
    unlabelled="lower confidence.threshold",
)


class LabelledImages(torch.utils.data.Dataset):
    """Random augmented crops of images and of their label maps; indexed by a `Sample`.

    Images without any label are left out. Label maps are kept in memory as PNG bytes in Arrow
    buffers, which worker processes share; images are decoded on access. An image whose longer side
    is above `longer_side` is reduced to it before a crop is drawn; its label map is resized by
    nearest neighbour.

    Args:
        paths: shards of label maps.
        root: folder that file names are relative to.
        clusters: C, the largest label.
        source: kind of label maps, for error messages.
        workers: threads that check the label maps.

    Attributes:
        image_ids: the images' ids.

    Raises:
        InputError: there is a label above C, or no image has any label.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        root: str | os.PathLike,
        *,
        clusters: int,
        settings: SegmentationSettings,
        seed: int,
        source: LabelSource = PSEUDO_LABELS,
        workers: int = 1,
    ) -> None:
        table = shards.read_table(paths, ["image_id", "file_name", "image"])
        names, encoded = table["file_name"], pc.struct_field(table["image"], "bytes")

        def is_labelled(index: int) -> bool:
            name = names[index].as_py()
            classes = _classes(_decode(encoded[index].as_py(), name))
            largest = int(classes.max())
            if largest > clusters:
                raise InputError(
                    f"label map of {name}: label {largest}, but there are {clusters} "
                    f"{source.classes}; {source.beyond}"
                )
            return largest != IGNORE_INDEX

        with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
            labelled = pa.array(pool.map(is_labelled, range(len(names))), pa.bool_())
        self._names, self._encoded = names.filter(labelled), encoded.filter(labelled)
        self.image_ids: list[int] = table["image_id"].filter(labelled).to_pylist()
        if not len(self._names):
            raise InputError(
                f"{', '.join(map(str, paths))}: no image has a label to learn from; "
                f"{source.unlabelled}"
            )
        self._root, self._settings, self._seed = Path(root), settings, seed

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (crop x crop x 3, uint8) and labels (crop x crop, int64) of a `Sample`."""
        settings = self._settings
        image, classes = self._read(sample.index)
        view = draw_view(
            classes.shape,
            sample.generator(self._seed),
            crop_size=settings.crop_size,
            scale=settings.scale,
            rotation=settings.rotation,
            flip=settings.flip,
        )
        image, classes = warp(image, classes, view, settings.crop_size)
        return torch.from_numpy(image), torch.from_numpy(classes).long()

    def labels(self, index: int) -> np.ndarray:
        """The labels of an image at its own size: H x W, int32."""
        return _classes(self._decoded(index))

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image (h x w x 3, uint8) and its labels (h x w, int32), bounded by `longer_side`."""
        labels = self._decoded(index)
        size = bounded_size(*labels.shape, self._settings.longer_side)
        image = read_listed(self._root / self._names[index].as_py(), labels.shape, size)
        return image, _classes(resize_mask(labels, size))

    def _decoded(self, index: int) -> np.ndarray:
        return _decode(self._encoded[index].as_py(), self._names[index].as_py())


def _decode(png: bytes, name: str) -> np.ndarray:
    try:
        return label_maps.decode_png(png)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"label map of {name}: damaged ({error}); remove its shard and run again"
        ) from error


def _classes(labels: np.ndarray) -> np.ndarray:
    """A label map as int32, with `IGNORE_INDEX` at ignored pixels."""
    classes = labels.astype(np.int32)
    classes[labels == label_maps.ignore_value(labels)] = IGNORE_INDEX
    return classes
