"""Prediction of label maps at the images' size, by a trained DeepLab."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.files.atomic import report_full_disk
from workflow_scripts.maskdistill.files.checkpoints import first_line, read_checkpoint
from workflow_scripts.maskdistill.files.images import padded_size, read_listed
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.segmentation.deeplab import (
    ARCHITECTURE,
    DeepLab,
    build_deeplab,
    upsample,
)
from workflow_scripts.maskdistill.segmentation.transforms import normalize
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings
from workflow_scripts.maskdistill.streaming import stream_batches
from workflow_scripts.maskdistill.torch_tools.device import autocast
from workflow_scripts.maskdistill.torch_tools.precision import check_precision
from workflow_scripts.maskdistill.torch_tools.weights import load_strictly

_PRECISION = PredictionSettings().precision


class Prediction(NamedTuple):
    """The prediction for one image."""

    row: Mapping  # row of the manifest
    image: np.ndarray  # RGB, H x W x 3 uint8
    logits: torch.Tensor  # classes x H x W, float32, on the model's device

    def labels(self) -> np.ndarray:
        """The most probable class of every pixel: H x W, uint16."""
        return self.logits.argmax(dim=0).cpu().numpy().astype(np.uint16)

    def probabilities(self) -> np.ndarray:
        """Softmax over the classes: classes x H x W, float32."""
        return self.logits.softmax(dim=0).cpu().numpy()


@dataclass(frozen=True)
class Predictor:
    """A trained model on its device."""

    model: DeepLab
    clusters: int
    device: torch.device
    settings: Mapping  # settings of the training, from the model file
    precision: str = _PRECISION  # precision of the network's matrix products

    @torch.inference_mode()
    def predict(
        self, rows: Iterable[Mapping], root: str | os.PathLike, *, batch_size: int, workers: int
    ) -> Iterator[Prediction]:
        """Predict images at their full resolution, in batches of the same padded shape.

        An image is padded with the mean colour, below and on the right, to a multiple of the
        output stride. Only one image's logits at full size are in memory at a time.

        Args:
            rows: rows of a manifest (file_name, height, width), in any order.
            root: folder that file names are relative to.
            batch_size: most images in one pass; the result does not depend on it.
            workers: threads that decode images.

        Raises:
            InputError: an image that was listed cannot be read, or has another size now.
        """

        def shape(row: Mapping) -> tuple[int, int]:
            return padded_size((row["height"], row["width"]), self.model.output_stride)

        def load(row: Mapping) -> np.ndarray:
            return read_listed(Path(root) / row["file_name"], (row["height"], row["width"]))

        batches = stream_batches(rows, load, shape=shape, batch_size=batch_size, workers=workers)
        for batch in batches:
            logits = self._logits([image for _, image in batch], shape(batch[0][0]))
            for (row, image), values in zip(batch, logits, strict=True):
                height, width = image.shape[:2]
                full = upsample(values[None], shape(row))[0, :, :height, :width]
                yield Prediction(row, image, full)

    @torch.inference_mode()
    def predict_image(self, image: np.ndarray) -> Prediction:
        """Predict one image (H x W x 3 uint8, RGB) without a manifest; its row is empty."""
        height, width = image.shape[:2]
        size = padded_size((height, width), self.model.output_stride)
        full = upsample(self._logits([image], size), size)[0, :, :height, :width]
        return Prediction({}, image, full)

    def _logits(self, images: Sequence[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
        height, width = size
        inputs = torch.cat(
            [
                F.pad(
                    normalize(torch.from_numpy(image)[None].to(self.device)),
                    (0, width - image.shape[1], 0, height - image.shape[0]),
                )
                for image in images
            ]
        )
        with autocast(self.device, self.precision):
            return self.model(inputs.contiguous(memory_format=torch.channels_last))


def load_predictor(
    path: str | os.PathLike, device: torch.device, *, precision: str = _PRECISION
) -> Predictor:
    """Load a model file that `learning.train` wrote.

    Args:
        precision: precision of the network's matrix products (`predictions.precision`).

    Raises:
        InputError: missing, damaged, not a segmentation model, or an unknown precision.
    """
    check_precision(precision, "predictions.precision")
    content = read_checkpoint(path, remedy="train_segmentation writes it")
    try:
        weights, clusters = content["state_dict"], content["clusters"]
        architecture = {name: content["settings"][name] for name in ARCHITECTURE}
        model = build_deeplab(clusters, **architecture)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a segmentation model ({first_line(error)}); train_segmentation writes one"
        ) from error
    load_strictly(model, weights, source=path)
    model = model.to(device, memory_format=torch.channels_last).eval()
    return Predictor(model, clusters, device, content["settings"], precision)


def write_predictions(
    path: str | os.PathLike,
    rows: Sequence[Mapping],
    predicted: Iterable[tuple[int, np.ndarray]],
    *,
    clusters: int,
    metadata: Mapping,
) -> None:
    """Write label maps as a shard of predictions, in the order of the manifest.

    Args:
        rows: rows of the manifest, one per image.
        predicted: (image_id, H x W label map of integers 0..clusters), in any order.
        clusters: C; PNGs have 16 bits instead of 8 if it is above 254.
        metadata: see `provenance.record`.

    Raises:
        InputError: the images predicted are not those of `rows`, or the disk is full.
    """
    files = {row["image_id"]: row["file_name"] for row in rows}
    kind = label_maps.dtype(clusters)
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    # PNGs are kept in a temporary file until all have been predicted, because of the order.
    with report_full_disk(path), tempfile.TemporaryFile(dir=folder) as waiting:
        places = {}
        for image_id, labels in progress(
            predicted, description="predict", unit="image", total=len(files)
        ):
            begin = waiting.tell()
            places[image_id] = (begin, waiting.write(label_maps.encode_png(labels.astype(kind))))
        shards.assert_same_images(files, places, str(path))

        def in_order() -> Iterator[dict]:
            for image_id, file_name in files.items():
                begin, length = places[image_id]
                waiting.seek(begin)
                yield label_maps.png_row(image_id, file_name, waiting.read(length))

        shards.write_table(path, "predictions", in_order(), metadata)
