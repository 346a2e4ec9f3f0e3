"""Prediction of label maps at the images' size, by a trained segmentation model.

An image whose longer side is above `predictions.longer_side` is reduced to it for DeepLab, and
the scores of the classes are resized to the original size. An image with a side above
`predictions.tile` is cut into overlapping tiles, which the model sees one by one. A `ViTHead` sees
images at the size at which their features were extracted, and whole.
"""

import concurrent.futures
import functools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from workflow_scripts.maskdistill.cpu_kernels import accelerate
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.files.atomic import report_full_disk
from workflow_scripts.maskdistill.files.checkpoints import first_line, read_checkpoint
from workflow_scripts.maskdistill.files.image_sizes import bounded_size, padded_size, resize
from workflow_scripts.maskdistill.files.images import read_listed
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.segmentation.deeplab import ARCHITECTURE, DeepLab, build_deeplab
from workflow_scripts.maskdistill.segmentation.stored_tokens import StoredTokens, read_tokens
from workflow_scripts.maskdistill.segmentation.upsampling import (
    enlarged_classes,
    largest_class,
    upsample_image,
)
from workflow_scripts.maskdistill.segmentation.vit_head import ViTHead, decide, rebuild
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings
from workflow_scripts.maskdistill.streaming import (
    PIXELS_AHEAD,
    PIXELS_PER_PASS,
    map_ahead,
    stream_batches,
)
from workflow_scripts.maskdistill.torch_tools.device import autocast
from workflow_scripts.maskdistill.torch_tools.precision import check_precision
from workflow_scripts.maskdistill.torch_tools.weights import load_strictly

_DEFAULTS = PredictionSettings()


class Prediction(NamedTuple):
    """The prediction for one image."""

    row: Mapping  # row of the manifest
    size: tuple[int, int]  # (height, width) of the image
    image: np.ndarray  # RGB, H x W x 3 uint8, at the size the model sees
    coarse: torch.Tensor  # logits at the model's stride, classes x h x w, on the model's device
    padded: tuple[int, int]  # (height, width) of `image` with padding

    @property
    def logits(self) -> torch.Tensor:
        """Logits at the size of `image`: classes x H x W, float32, on the model's device."""
        return self._logits(self.image.shape[:2], slice(None))

    def labels(self) -> np.ndarray:
        """The most probable class of every pixel: uint16, of `size`."""
        size = min(self.image.shape[:2], self.size)
        scores = functools.partial(self._logits, size)
        labels = largest_class(len(self.coarse), size, scores)
        return labels if size == self.size else enlarged_classes(labels, self.size, scores)

    def probabilities(self, longer_side: int | None = None) -> np.ndarray:
        """Softmax over the classes: classes x H x W, float32.

        Args:
            longer_side: bound on H and W; None for the size of `image`.
        """
        size = bounded_size(*self.image.shape[:2], longer_side)
        return self._logits(size, slice(None)).softmax(dim=0).cpu().numpy()

    def _logits(self, size: tuple[int, int], some: slice | list[int]) -> torch.Tensor:
        coarse, seen = self.coarse[None, some], self.image.shape[:2]
        return upsample_image(coarse, seen=seen, padded=self.padded, size=size)[0]


@dataclass(frozen=True)
class Predictor:
    """A trained model on its device."""

    model: DeepLab | ViTHead
    clusters: int
    device: torch.device
    settings: Mapping  # settings of the training, from the model file
    precision: str = _DEFAULTS.precision  # precision of the network's matrix products
    longer_side: int | None = _DEFAULTS.longer_side  # larger images are reduced to it for DeepLab
    tile: int | None = _DEFAULTS.tile  # side of a tile of DeepLab's in pixels; None: no tiles

    @torch.inference_mode()
    def predict(
        self,
        rows: Iterable[Mapping],
        root: str | os.PathLike,
        *,
        batch_size: int,
        workers: int,
        features: str | os.PathLike | None = None,
    ) -> Iterator[Prediction]:
        """Predict images; those of a batch have the same padded shape.

        An image is resized for the model and padded with the mean colour, below and on the right,
        to multiples of the output stride. To save memory, only the small logits at the model's
        stride are kept for the whole batch; `Prediction` enlarges them for one image at a time.

        Args:
            rows: rows of a manifest (file_name, height, width), in any order.
            root: folder that file names are relative to.
            batch_size: the most images in one pass; the result does not depend on it.
            workers: threads that decode images.
            features: shard of features with the tokens of the images. Only the decoder of a
                `ViTHead` runs then, and the result differs by the rounding of tokens to float16.

        Raises:
            InputError: an image cannot be read, does not have the size given in the manifest, or
                has no tokens in `features`.
        """
        if features is not None:
            yield from self._predict_from_tokens(rows, Path(root), features, workers)
            return

        def size(row: Mapping) -> tuple[int, int]:
            return row["height"], row["width"]

        def load(row: Mapping) -> np.ndarray:
            image = read_listed(Path(root) / row["file_name"], size(row))
            return resize(image, self._seen(size(row)))

        batches = stream_batches(
            rows,
            load,
            shape=lambda row: self._padded(size(row)),
            decoded=lambda row: math.prod(size(row)),
            batch_size=batch_size,
            workers=workers,
        )
        for batch in batches:
            padded = self._padded(size(batch[0][0]))
            logits = self._logits([image for _, image in batch], padded)
            for (row, image), coarse in zip(batch, logits, strict=True):
                yield Prediction(row, size(row), image, coarse, padded)

    def _predict_from_tokens(
        self, rows: Iterable[Mapping], root: Path, features: str | os.PathLike, workers: int
    ) -> Iterator[Prediction]:
        if not isinstance(self.model, ViTHead):
            raise InputError(
                f"--features {features}: only a model of segmentation.model vit_head predicts from "
                "stored tokens; leave this option out"
            )
        listed = {row["image_id"]: row for row in rows}
        stored = read_tokens(features, listed, width=self.model.transformer.embed_dim)

        def size(tokens: StoredTokens) -> tuple[int, int]:
            row = listed[tokens.image_id]
            return row["height"], row["width"]

        def load(tokens: StoredTokens) -> tuple[StoredTokens, np.ndarray]:
            image = read_listed(root / listed[tokens.image_id]["file_name"], size(tokens))
            return tokens, resize(image, tokens.size)

        with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
            for tokens, image in map_ahead(
                pool,
                load,
                stored,
                ahead=workers,
                weight=lambda tokens: math.prod(size(tokens)),
                most_weight=PIXELS_AHEAD,
            ):
                (coarse,) = decide(self.model.decode(tokens.batch(self.device)))
                row, padded = listed[tokens.image_id], self._padded(size(tokens))
                yield Prediction(row, size(tokens), image, coarse, padded)

    @torch.inference_mode()
    def predict_image(self, image: np.ndarray) -> Prediction:
        """Predict one image (H x W x 3 uint8, RGB) without a manifest; its row is empty."""
        size = image.shape[:2]
        padded = self._padded(size)
        image = resize(image, self._seen(size))
        (coarse,) = self._logits([image], padded)
        return Prediction({}, size, image, coarse, padded)

    def _seen(self, size: tuple[int, int]) -> tuple[int, int]:
        if isinstance(self.model, ViTHead):
            return self.model.input_size(size)
        return bounded_size(*size, self.longer_side)

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        return padded_size(self._seen(size), self.model.output_stride)

    def _logits(
        self, images: Sequence[np.ndarray], size: tuple[int, int]
    ) -> Sequence[torch.Tensor]:
        """Logits at the model's stride of images with the same padded size."""
        side = max(size)
        if self.tile is not None and not isinstance(self.model, ViTHead):
            side, _ = padded_size((self.tile, self.tile), self.model.output_stride)
        if max(size) <= side:
            return self._one_pass(images, size)
        return [self._tiled(image, size, side) for image in images]

    def _tiled(self, image: np.ndarray, size: tuple[int, int], side: int) -> torch.Tensor:
        """Logits at the model's stride of one image, blended where tiles overlap.

        Args:
            size: (height, width) of the padded image.
            side: side of a tile in pixels, a multiple of the model's stride.
        """
        stride = self.model.output_stride
        sides = [min(side, length) for length in size]
        places = [
            (row, column)
            for row in _starts(size[0], sides[0], stride)
            for column in _starts(size[1], sides[1], stride)
        ]
        height, width = map(self._cells, sides)
        weights = torch.outer(_ramp(height), _ramp(width)).to(self.device)
        cells = [self._cells(length) for length in size]
        total = torch.zeros(cells, device=self.device)
        blended = torch.zeros(self.clusters + 1, *cells, device=self.device)
        count = max(1, PIXELS_PER_PASS // math.prod(sides))
        for first in range(0, len(places), count):
            some = places[first : first + count]
            tiles = [
                image[row : row + sides[0], column : column + sides[1]] for row, column in some
            ]
            for (row, column), logits in zip(some, self._one_pass(tiles, sides), strict=True):
                top, left = self._cells(row), self._cells(column)
                window = np.s_[..., top : top + height, left : left + width]
                blended[window] += weights * logits.float()
                total[window] += weights
        return blended / total

    def _cells(self, length: int) -> int:
        """Number of logits along `length` pixels, which are a multiple of the model's stride."""
        return length // self.model.output_stride * self.model.cells

    def _one_pass(self, images: Sequence[np.ndarray], size: Sequence[int]) -> torch.Tensor:
        height, width = size
        inputs = torch.cat(
            [
                F.pad(
                    self.model.normalize(torch.from_numpy(image)[None].to(self.device)),
                    (0, width - image.shape[1], 0, height - image.shape[0]),
                )
                for image in images
            ]
        )
        with autocast(self.device, self.precision):
            return self.model(inputs.contiguous(memory_format=torch.channels_last))


def _starts(length: int, side: int, stride: int) -> list[int]:
    """The first pixels of the tiles along an axis, evenly spaced up to rounding to `stride`.

    Neighbouring tiles overlap by at least a quarter of `side`, minus at most one `stride`.

    Args:
        length: of the padded image along this axis, a multiple of `stride`.
        side: of a tile, a multiple of `stride`.
    """
    if length <= side:
        return [0]
    count = 1 + math.ceil((length - side) / (0.75 * side))
    places = ((length - side) * number // (count - 1) for number in range(count))
    return sorted({place // stride * stride for place in places})


def _ramp(cells: int) -> torch.Tensor:
    """Weights of a tile's logits along an axis: smaller near the tile's borders, for blending."""
    place = torch.arange(cells)
    return torch.minimum(place + 1, cells - place).clamp(max=max(1, cells // 4)).float()


def load_predictor(
    path: str | os.PathLike,
    device: torch.device,
    *,
    precision: str = _DEFAULTS.precision,
    longer_side: int | None = _DEFAULTS.longer_side,
    tile: int | None = _DEFAULTS.tile,
    fast: bool = True,
) -> Predictor:
    """Load a model file that `learning.train` or `token_training.train` wrote.

    Args:
        fast: replace layers of a transformer by faster ones on CPUs (`cpu_kernels`); these cannot
            be exported.
        precision, longer_side, tile: see the settings of the section `predictions`.

    Raises:
        InputError: the file is missing, damaged or not a segmentation model, or the precision is
            unknown.
    """
    check_precision(precision, "predictions.precision")
    content = read_checkpoint(path, remedy="train_segmentation writes it")
    try:
        weights, clusters = content["state_dict"], content["clusters"]
        if content.get("model") == "vit_head":
            model = rebuild(content)
        else:
            architecture = {name: content["settings"][name] for name in ARCHITECTURE}
            model = build_deeplab(clusters, **architecture)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a segmentation model ({first_line(error)}); train_segmentation writes one"
        ) from error
    load_strictly(model, weights, source=path)
    if fast and isinstance(model, ViTHead):
        accelerate(model.transformer)
    model = model.to(device, memory_format=torch.channels_last).eval()
    return Predictor(model, clusters, device, content["settings"], precision, longer_side, tile)


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
        InputError: the predicted images are not exactly those of `rows`, or the disk is full.
    """
    files = {row["image_id"]: row["file_name"] for row in rows}
    kind = label_maps.dtype(clusters)
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    # Images are predicted in another order than they are written in, so that the PNGs are kept in
    # a temporary file until all are there.
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
