"""Training of the decoder of `vit_head` on label maps, from tokens that are computed once."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from workflow_scripts.maskdistill.segmentation.vit_head import Transformer, ViTHead
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.streaming import stream_batches
from workflow_scripts.maskdistill.torch_tools.sampling import Sample
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

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
    """Train the decoder on label maps, from the last checkpoint if there is one.

    The tokens of all images wait in a file of the training's folder, which is removed at the end:
    0.8 MB per image with ViT-S/14 and 448 pixels.

    Args:
        features: backbone, backbone_options and weights of the transformer.
        The others are those of `learning.train`.

    Raises:
        InputError: unusable label maps, images, settings or weights, or a loss that is not finite.
        Interrupted: SIGTERM arrived and the state has been saved.
    """

    @contextlib.contextmanager
    def prepare(model: ViTHead, labelled: LabelledImages, folder: Path) -> Iterator[TokenImages]:
        data = TokenImages(labelled, model, folder, flip=settings.flip, seed=seed)
        data.compute(device, workers=workers)
        yield data
        data.remove()

    def losses(model: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        tokens, images, labels = batch
        logits = model.decode(tokens.float(), normalize(images))
        # At the logits' own size: a quarter of a patch is a few pixels.
        labels = _at(labels, logits.shape[-2:])
        loss = hard_pixel_loss(logits, labels, hardest_fraction=settings.hardest_fraction)
        return {"loss": loss}

    learning.train_model(
        lambda: build_vit_head(
            clusters,
            backbone=features.backbone,
            options=features.backbone_options,
            weights=features.weights,
            width=settings.head_width,
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
        workers=workers,
        prepare=prepare,
        losses=losses,
        published={
            "model": "vit_head",
            "backbone": {"name": features.backbone, "options": features.backbone_options},
        },
    )


class TokenImages(torch.utils.data.Dataset):
    """Images with their tokens and label maps; the index of an item is a `Sample`.

    All items are squares of one size, which holds every image at `segmentation.longer_side`. What
    lies beyond the image is the mean colour, and has no label.

    Args:
        labelled: images and label maps.
        model: makes the tokens.
        folder: where the file of tokens lies.
        flip: mirror half of the items.
    """

    def __init__(
        self, labelled: LabelledImages, model: ViTHead, folder: Path, *, flip: bool, seed: int
    ) -> None:
        self._labelled, self._model = labelled, model
        self._path = folder / "tokens.npy"
        self._flip, self._seed = flip, seed
        self._sizes = [
            padded_size(labelled.size(index), model.output_stride) for index in range(len(labelled))
        ]
        self._side = max(map(max, self._sizes))

    def __len__(self) -> int:
        return len(self._labelled)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        cells = self._side // self._model.output_stride
        return len(self), self._model.transformer.embed_dim, cells, cells

    def compute(self, device: torch.device, *, workers: int) -> None:
        """Compute the tokens of all images, unless they are there from before an interruption.

        Args:
            workers: threads that decode images.

        Raises:
            InputError: an image cannot be read, or the disk is full.
        """
        if self._path.exists():
            return
        unfinished = self._path.with_suffix(".part")
        with (
            report_full_disk(self._path),
            progress_bar(total=len(self), description="tokens", unit="image") as bar,
        ):
            tokens = np.lib.format.open_memmap(
                unfinished, mode="w+", dtype=np.float16, shape=self._shape
            )
            for batch in stream_batches(
                range(len(self)),
                lambda index: self._labelled.read(index)[0],
                shape=lambda index: self._sizes[index],
                batch_size=_BATCH,
                workers=workers,
            ):
                size = self._sizes[batch[0][0]]
                images = torch.cat([_padded(image, size) for _, image in batch])
                found = self._model.tokens(normalize(images.to(device))).cpu().numpy()
                for (index, _), values in zip(batch, found, strict=True):
                    tokens[index, :, : values.shape[1], : values.shape[2]] = values
                bar.update(len(batch))
            tokens.flush()
        unfinished.rename(self._path)

    def remove(self) -> None:
        """Remove the file of tokens."""
        self._path.unlink()

    def __getitem__(self, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (d x h x w, float16), image (S x S x 3, uint8) and labels (S x S, int64)."""
        tokens = np.load(self._path, mmap_mode="r")[sample.index]
        image, labels = self._labelled.read(sample.index)
        (image,) = _padded(image, (self._side, self._side))
        height, width = labels.shape
        beyond = (0, self._side - width, 0, self._side - height)
        labels = F.pad(torch.from_numpy(labels).long(), beyond, value=IGNORE_INDEX)
        tokens = torch.from_numpy(np.array(tokens))
        if self._flip and sample.generator(self._seed).random() < 0.5:
            # The tokens of a mirrored image are nearly the mirrored tokens.
            return tokens.flip(2), image.flip(1), labels.flip(1)
        return tokens, image, labels


def _padded(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """1 x H x W x 3 uint8 of `size`, with the mean colour below and on the right."""
    height, width = image.shape[:2]
    result = np.empty((1, *size, 3), np.uint8)
    result[:] = MEAN_COLOR
    result[0, :height, :width] = image
    return torch.from_numpy(result)


def _at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B x H x W) at the centres of coarser cells."""
    rows, columns = (
        ((torch.arange(count, device=labels.device) + 0.5) * side / count).long()
        for count, side in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows[:, None], columns[None]]


def build_vit_head(
    clusters: int,
    *,
    backbone: str,
    options: Mapping,
    weights: str | None,
    width: int,
) -> ViTHead:
    """A model with `clusters` + 1 outputs, whose decoder has random weights.

    Args:
        backbone, options, weights: the transformer, see `timm_models.build_network`.
        width: channels of the decoder.

    Raises:
        InputError: the transformer is unknown or unsuitable, or its weights do not fit.
    """
    found = Backbone(backbone, options=options, weights=weights)
    transformer = Transformer(found.model, found.patch_size, found.mean, found.std)
    return ViTHead(transformer, clusters + 1, width=width)
