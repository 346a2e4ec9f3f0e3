"""Training of the decoder of `vit_head` on label maps, from the tokens stored with the features."""

import contextlib
import functools
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import report_full_disk
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.segmentation import learning
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX, hard_pixel_loss
from workflow_scripts.maskdistill.segmentation.labelled_images import (
    PSEUDO_LABELS,
    LabelledImages,
)
from workflow_scripts.maskdistill.segmentation.stored_tokens import read_grids, read_tokens
from workflow_scripts.maskdistill.segmentation.vit_head import Tokens, Transformer, ViTHead
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.sampling import Sample
from workflow_scripts.maskdistill.torch_tools.training_run import (
    Interrupted,
    TrainingFiles,
    TrainingRun,
)


def train(
    paths: Sequence[str | os.PathLike],
    tokens: Sequence[str | os.PathLike],
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

    Tokens and labels of all images are copied to files in the training's folder, from which crops
    are read, and which are removed at the end.

    Args:
        tokens: shards of features with the tokens of the images.
        features: section `features`, with the transformer's name, options, weights and image sizes.
        workers: threads that check the label maps.

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
            labelled,
            tokens,
            model,
            run.directory,
            side=settings.crop_size,
            flip=settings.flip,
            seed=seed,
        )
        data.gather(stop=lambda: run.stop_requested)
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
        lambda: build_vit_head(clusters, features, dropout=settings.dropout),
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
            "tokens": [Path(path) for path in tokens],
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
            "backbone": {
                "name": features.backbone,
                "options": features.backbone_options,
                "shorter_side": features.side(),
                "longer_side": features.longer_side,
            },
        },
    )


class TokenImages(torch.utils.data.Dataset):
    """Random crops of the tokens of images and of their label maps; indexed by a `Sample`.

    `gather` writes tokens and labels to files once, from which crops are read. Labels are stored at
    the resolution of the model's logits. Crops are squares of whole patches. The part of a crop
    outside its image has no label.

    Args:
        labelled: label maps of images.
        features: shards of features with the tokens of these images.
        model: the model that is trained.
        folder: existing folder, in which `gather` makes the folder "tokens" for the files.
        side: side of a crop in pixels of the resized images.
        flip: mirror half of the crops.

    Raises:
        InputError: the features of an image are missing.
    """

    def __init__(
        self,
        labelled: LabelledImages,
        features: Sequence[str | os.PathLike],
        model: ViTHead,
        folder: Path,
        *,
        side: int,
        flip: bool,
        seed: int,
    ) -> None:
        self._labelled, self._features, self._model = labelled, features, model
        self._folder = folder / "tokens"
        self._flip, self._seed = flip, seed
        # For every image: (rows, columns) of its patches, and its first patch's index in the files.
        grids = read_grids(features)
        if missing := [one for one in labelled.image_ids if one not in grids]:
            raise InputError(
                f"{', '.join(map(str, features))}: no features of {len(missing)} images that have "
                f"label maps (ids {missing[:5]} …); remove these files and run again"
            )
        self._grids = [grids[image_id] for image_id in labelled.image_ids]
        self._starts = [0, *itertools.accumulate(map(math.prod, self._grids))]
        self._side = min(max(1, side // model.output_stride), max(map(max, self._grids)))

    def __len__(self) -> int:
        return len(self._labelled)

    def gather(self, *, stop: Callable[[], bool]) -> None:
        """Write the files, unless they exist already, from before an interruption.

        Args:
            stop: called after every image; true ends the work.

        Raises:
            InputError: an image has no tokens, or the disk is full.
            Interrupted: `stop` returned true.
        """
        if self._folder.exists():
            return
        unfinished = self._folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
        unfinished.mkdir()
        try:
            self._write(unfinished, stop)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        unfinished.rename(self._folder)

    def _write(self, unfinished: Path, stop: Callable[[], bool]) -> None:
        patches, width = self._starts[-1], self._model.transformer.embed_dim
        numbers = {image_id: number for number, image_id in enumerate(self._labelled.image_ids)}
        with (
            report_full_disk(self._folder),
            progress_bar(total=len(self), description="tokens", unit="image") as bar,
        ):
            stored = _Stored(
                _create(unfinished, "images", np.float16, len(self), width),
                _create(unfinished, "patches", np.float16, patches, width),
                _create(unfinished, "labels", np.int32, patches * self._model.cells**2),
            )
            for path in self._features:
                for tokens in read_tokens(path, numbers, width=width):
                    index = numbers[tokens.image_id]
                    own = self._of_image(stored, index)
                    own.images[:], own.patches[:] = tokens.image, tokens.patches
                    own.labels[:] = _at_cells(
                        self._labelled.labels(index),
                        tokens.size,
                        own.labels.shape,
                        self._model.output_stride / self._model.cells,
                    )
                    bar.update()
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


def _at_cells(
    labels: np.ndarray, resized: Sequence[int], cells: Sequence[int], side: float
) -> np.ndarray:
    """Sample labels (H x W) at the centres of the cells of a grid over the padded image.

    Args:
        resized: (height, width) of the image as the transformer sees it, without padding.
        cells: numbers of rows and columns of the grid.
        side: side of a cell in pixels of the resized image.
    """
    result = np.full(cells, IGNORE_INDEX, labels.dtype)
    centres = [(np.arange(count) + 0.5) * side for count in cells]
    rows, columns = (
        (place[place < seen] * (own / seen)).astype(int)
        for place, seen, own in zip(centres, resized, labels.shape, strict=True)
    )
    result[: len(rows), : len(columns)] = labels[rows[:, None], columns]
    return result


def build_vit_head(clusters: int, features: FeatureSettings, *, dropout: float) -> ViTHead:
    """A model with `clusters` + 1 outputs, whose decoder has random weights.

    Args:
        features: the transformer's name, options and weights, and the sides of its images.
        dropout: share of the tokens' components that are dropped in training.

    Raises:
        InputError: the transformer is unknown or unsuitable, or its weights do not fit.
    """
    found = Backbone(features.backbone, options=features.backbone_options, weights=features.weights)
    transformer = Transformer(
        found.model,
        found.patch_size,
        features.side(),
        features.longer_side,
        found.mean,
        found.std,
    )
    return ViTHead(transformer, clusters + 1, dropout=dropout)
