"""Training of the decoder of `vit_head` on label maps.

The frozen transformer's tokens of every image are computed once, before the training.
"""

import contextlib
import functools
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.files.atomic import report_full_disk
from workflow_scripts.maskdistill.files.image_sizes import padded_size
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.segmentation import learning
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX, hard_pixel_loss
from workflow_scripts.maskdistill.segmentation.labelled_images import (
    PSEUDO_LABELS,
    LabelledImages,
)
from workflow_scripts.maskdistill.segmentation.transforms import MEAN_COLOR, normalize
from workflow_scripts.maskdistill.segmentation.vit_head import Tokens, Transformer, ViTHead
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.streaming import stream_batches
from workflow_scripts.maskdistill.torch_tools.sampling import Sample
from workflow_scripts.maskdistill.torch_tools.training_run import (
    Interrupted,
    TrainingFiles,
    TrainingRun,
)

_BATCH = 8  # images in one pass of the transformer


def train(
    paths: Sequence[str | os.PathLike],
    root: str | os.PathLike,
    *,
    clusters: int,
    settings: SegmentationSettings,
    features: FeatureSettings,
    seed: int,
    files: TrainingFiles,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Train the decoder on label maps; continues from the last checkpoint if there is one.

    The tokens of all images are kept in files in the training's folder, which are removed at the
    end. With ViT-S/16 they take 0.7 MB for an image of 512 x 384 pixels.

    Args:
        features: section `features`, with the transformer's name, options and weights.
        workers: threads that decode images before the training.

    The other arguments are those of `learning.train`.

    Raises:
        InputError: unusable label maps, images, settings or weights, or a loss that is not finite.
        Interrupted: SIGTERM arrived and the state has been saved.
    """

    @contextlib.contextmanager
    def prepare(
        model: ViTHead, labelled: LabelledImages, run: TrainingRun
    ) -> Iterator[TokenImages]:
        data = TokenImages(
            labelled, model, run.directory, side=settings.crop_size, flip=settings.flip, seed=seed
        )
        data.compute(device, workers=workers, stop=lambda: run.stop_requested)
        yield data
        data.remove()

    def losses(model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        # The loss is computed at the logits' own resolution, unlike DeepLab's, because there is
        # already a logit every few pixels.
        image, patches, labels = batch
        loss = hard_pixel_loss(
            model.decode(Tokens(image.float(), patches.float())),
            labels,
            hardest_fraction=settings.hardest_fraction,
            label_smoothing=settings.label_smoothing,
        )
        return {"loss": loss}

    learning.train_model(
        lambda: build_vit_head(
            clusters,
            backbone=features.backbone,
            options=features.backbone_options,
            weights=features.weights,
            dropout=settings.dropout,
        ),
        paths,
        root,
        clusters=clusters,
        settings=settings,
        seed=seed,
        source=PSEUDO_LABELS,
        fingerprint={
            "stage": "train_vit_head",
            "settings": settings.plain(),
            "features": features.plain() | {"weights": None},
            "weights": features.weights and Path(features.weights),
        },
        precision="float32",
        files=files,
        device=device,
        # Without loading processes: reading a crop from the files takes less time than passing it
        # from one process to another.
        workers=0,
        prepare=prepare,
        losses=losses,
        published={
            "model": "vit_head",
            "backbone": {"name": features.backbone, "options": features.backbone_options},
        },
    )


class TokenImages(torch.utils.data.Dataset):
    """Random crops of the tokens of images and of their label maps; indexed by a `Sample`.

    `compute` writes tokens and labels to files once, so that no image is decoded again. Labels are
    stored at the resolution of the model's logits. Crops are squares of whole patches. The part of
    a crop outside its image has no label.

    Args:
        labelled: images and label maps.
        model: computes the tokens.
        folder: existing folder, in which `compute` makes the folder "tokens" for the files.
        side: side of a crop in pixels of the image.
        flip: mirror half of the crops.
    """

    def __init__(
        self,
        labelled: LabelledImages,
        model: ViTHead,
        folder: Path,
        *,
        side: int,
        flip: bool,
        seed: int,
    ) -> None:
        self._labelled, self._model = labelled, model
        self._folder = folder / "tokens"
        self._flip, self._seed = flip, seed
        patch = model.output_stride
        self._sizes = [padded_size(labelled.size(index), patch) for index in range(len(labelled))]
        # For every image: (rows, columns) of its patches, and its first patch's index in the files.
        self._grids = [(height // patch, width // patch) for height, width in self._sizes]
        self._starts = [0, *itertools.accumulate(map(math.prod, self._grids))]
        self._side = min(max(1, side // patch), max(map(max, self._grids)))

    def __len__(self) -> int:
        return len(self._labelled)

    def compute(self, device: torch.device, *, workers: int, stop: Callable[[], bool]) -> None:
        """Write the files, unless they exist already, from before an interruption.

        Args:
            workers: threads that decode images.
            stop: called after every batch of images; true ends the computation.

        Raises:
            InputError: an image cannot be read, or the disk is full.
            Interrupted: `stop` returned true.
        """
        if self._folder.exists():
            return
        unfinished = self._folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
        unfinished.mkdir()
        try:
            self._write(unfinished, device, workers, stop)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        unfinished.rename(self._folder)

    def _write(
        self, unfinished: Path, device: torch.device, workers: int, stop: Callable[[], bool]
    ) -> None:
        patches, width = self._starts[-1], self._model.transformer.embed_dim
        with (
            report_full_disk(self._folder),
            progress_bar(total=len(self), description="tokens", unit="image") as bar,
        ):
            stored = _Stored(
                _create(unfinished, "images", np.float16, len(self), width),
                _create(unfinished, "patches", np.float16, patches, width),
                _create(unfinished, "labels", np.int32, patches * self._model.cells**2),
            )
            for batch in stream_batches(
                range(len(self)),
                self._labelled.read,
                shape=lambda index: self._sizes[index],
                batch_size=_BATCH,
                workers=workers,
            ):
                size = self._sizes[batch[0][0]]
                images = torch.cat([_padded(image, size) for _, (image, _) in batch]).to(device)
                tokens = self._model.tokens(normalize(images))
                for number, (index, (_, labels)) in enumerate(batch):
                    own = self._of_image(stored, index)
                    own.images[:] = tokens.image[number].cpu()
                    own.patches[:] = tokens.patches[number].permute(1, 2, 0).cpu()
                    own.labels[:] = _at_cells(labels, size, own.labels.shape)
                bar.update(len(batch))
                if stop():
                    raise Interrupted
            for array in stored:
                array.flush()

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder)

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """A crop of n x n patches, with CELLS x CELLS logits per patch.

        Returns:
            The image's token [CLS] (d, float16), the tokens of the patches (d x n x n, float16) and
            the labels (CELLS n x CELLS n, int64).
        """
        generator = sample.generator(self._seed)
        flipped = self._flip and generator.random() < 0.5
        corner = [generator.integers(max(0, side - self._side) + 1) for side in self._grid(sample)]
        own = self._of_image(self._stored, sample.index)
        cells = self._model.cells
        patches = _window(own.patches, corner, self._side, 0)
        corner = [cells * place for place in corner]
        labels = _window(own.labels, corner, cells * self._side, IGNORE_INDEX)
        if flipped:  # mirroring the tokens is an approximation of the tokens of the mirrored image
            patches, labels = patches[:, ::-1].copy(), labels[:, ::-1].copy()
        patches, labels = torch.from_numpy(patches).permute(2, 0, 1), torch.from_numpy(labels)
        return torch.from_numpy(own.images.copy()), patches, labels.long()

    def _grid(self, sample: Sample) -> tuple[int, int]:
        return self._grids[sample.index]

    @functools.cached_property
    def _stored(self) -> "_Stored":
        return _Stored(
            *(np.load(self._folder / f"{name}.npy", mmap_mode="r") for name in _Stored._fields)
        )

    def _of_image(self, stored: "_Stored", index: int) -> "_Stored":
        """The part of the arrays that belongs to one image, reshaped to rows and columns."""
        rows, columns = self._grids[index]
        first, last = self._starts[index : index + 2]
        cells = self._model.cells
        fine = slice(first * cells**2, last * cells**2)
        return _Stored(
            stored.images[index],
            stored.patches[first:last].reshape(rows, columns, -1),
            stored.labels[fine].reshape(cells * rows, cells * columns),
        )


class _Stored(NamedTuple):
    """The contents of the files: of all images, one after the other, or of one image."""

    images: np.ndarray  # images x d, float16: the tokens [CLS]
    patches: np.ndarray  # patches x d, float16
    labels: np.ndarray  # positions of the logits, int32


def _create(folder: Path, name: str, kind: type, *shape: int) -> np.memmap:
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
    with open(path, "r+b") as file:
        # Reserve the space now, to get an error if the disk is full. Otherwise a later write to the
        # mapped memory would kill the process.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _window(values: np.ndarray, corner: Sequence[int], side: int, beyond: int) -> np.ndarray:
    """A copy of a square part of values (rows x columns x …), filled with `beyond` outside."""
    row, column = corner
    part = values[row : row + side, column : column + side]
    result = np.empty((side, side, *values.shape[2:]), values.dtype)
    result[:] = beyond
    result[: part.shape[0], : part.shape[1]] = part
    return result


def _at_cells(labels: np.ndarray, padded: Sequence[int], cells: Sequence[int]) -> np.ndarray:
    """Sample labels (H x W) at the centres of the cells of a grid over the padded image.

    Args:
        padded: (height, width) of the image with padding.
        cells: numbers of rows and columns of the grid.
    """
    result = np.full(cells, IGNORE_INDEX, labels.dtype)
    places = [
        ((np.arange(count) + 0.5) * side / count).astype(int)
        for count, side in zip(cells, padded, strict=True)
    ]
    rows, columns = (place[place < side] for place, side in zip(places, labels.shape, strict=True))
    result[: len(rows), : len(columns)] = labels[rows[:, None], columns]
    return result


def _padded(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The image as 1 x H x W x 3 uint8 of `size`, padded with the mean colour."""
    height, width = image.shape[:2]
    result = np.empty((1, *size, 3), np.uint8)
    result[:] = MEAN_COLOR
    result[0, :height, :width] = image
    return torch.from_numpy(result)


def build_vit_head(
    clusters: int,
    *,
    backbone: str,
    options: Mapping,
    weights: str | None,
    dropout: float,
) -> ViTHead:
    """A model with `clusters` + 1 outputs, whose decoder has random weights.

    Args:
        backbone, options, weights: the transformer, see `timm_models.build_network`.
        dropout: share of the tokens' components that are dropped in training.

    Raises:
        InputError: the transformer is unknown or unsuitable, or its weights do not fit.
    """
    found = Backbone(backbone, options=options, weights=weights)
    transformer = Transformer(found.model, found.patch_size, found.mean, found.std)
    return ViTHead(transformer, clusters + 1, dropout=dropout)
