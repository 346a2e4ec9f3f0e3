"""Training of segmentation models on label maps, resumable at any step."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from torch.utils.data import Dataset

from workflow_scripts.maskdistill.segmentation.deeplab import ARCHITECTURE, build_deeplab
from workflow_scripts.maskdistill.segmentation.hard_pixels import hard_pixel_loss
from workflow_scripts.maskdistill.segmentation.labelled_images import (
    PSEUDO_LABELS,
    LabelledImages,
    LabelSource,
)
from workflow_scripts.maskdistill.segmentation.transforms import normalize
from workflow_scripts.maskdistill.segmentation.upsampling import upsample
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools import distributed, optimization
from workflow_scripts.maskdistill.torch_tools.device import autocast
from workflow_scripts.maskdistill.torch_tools.training_run import (
    TrainingFiles,
    TrainingRun,
    publish,
    training_run,
)

# Function (model, batch on the model's device) → losses by name.
Losses = Callable[[nn.Module, Sequence[torch.Tensor]], dict[str, torch.Tensor]]


def learning_rate(step: int, steps_per_epoch: int, settings: SegmentationSettings) -> float:
    """The learning rate of a step; steps are counted from 0."""
    return optimization.scheduled_rate(
        step,
        initial=settings.learning_rate,
        decay=settings.learning_rate_decay,
        milestones=[epoch * steps_per_epoch for epoch in settings.learning_rate_milestones],
    )


def train(
    paths: Sequence[str | os.PathLike],
    root: str | os.PathLike,
    *,
    clusters: int,
    settings: SegmentationSettings,
    seed: int,
    files: TrainingFiles,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Train DeepLab on label maps; continues from the last checkpoint if there is one.

    An interruption does not change the resulting weights, because crops, dropout and learning rate
    depend only on the step. Under torchrun each process takes its part of every batch. The number
    of processes may change after an interruption; it affects the result only through the order of
    floating-point sums.

    Args:
        paths: shards of label maps; images without any label are left out.
        root: folder that file names are relative to.
        files: checkpoints and outputs of the training. The model file has state_dict, settings,
            clusters and provenance, with the device and the number of processes that finished the
            training.
        workers: processes that decode images; with 0 this process decodes them itself.

    Raises:
        InputError: unusable label maps, images, settings or weights, or a loss that is not finite.
        Interrupted: SIGTERM arrived and the state has been saved.
    """
    fingerprint = {
        "stage": "train_segmentation",
        "settings": settings.plain() | {"weights": None},
        "weights": settings.weights and Path(settings.weights),
    }
    architecture = {name: getattr(settings, name) for name in ARCHITECTURE}
    train_model(
        lambda: build_deeplab(clusters, weights=settings.weights, **architecture),
        paths,
        root,
        clusters=clusters,
        settings=settings,
        seed=seed,
        source=PSEUDO_LABELS,
        fingerprint=fingerprint,
        precision=settings.precision,
        files=files,
        device=device,
        workers=workers,
    )


def train_model(
    build: Callable[[], nn.Module],
    paths: Sequence[str | os.PathLike],
    root: str | os.PathLike,
    *,
    clusters: int,
    settings: SegmentationSettings,
    seed: int,
    source: LabelSource,
    fingerprint: Mapping,
    precision: str,
    files: TrainingFiles,
    device: torch.device,
    workers: int = 0,
    prepare: Callable[..., AbstractContextManager[Dataset]] | None = None,
    losses: Losses | None = None,
    published: Mapping = MappingProxyType({}),
) -> None:
    """Train a model's parameters that require gradients; for the other arguments see `train`.

    Args:
        build: makes the model with `clusters` + 1 outputs; called after seeding torch.
        source: kind of label maps, for error messages.
        fingerprint: everything that the result depends on besides label maps, clusters and seed;
            see `training_run.fingerprint_text`.
        precision: precision of the model's matrix products.
        prepare: function (model, labelled images, run) → context manager with the training data,
            open until the training ends; None to train on the labelled images themselves.
        losses: function (model, batch) → losses by name; None for `hard_pixel_loss` at the size of
            the label maps.
        published: further entries of the model file.
    """
    fingerprint = {
        **fingerprint,
        "label_maps": [Path(path) for path in paths],
        "clusters": clusters,
        "seed": seed,
    }
    labelled = LabelledImages(
        paths,
        root,
        clusters=clusters,
        settings=settings,
        seed=seed,
        source=source,
        workers=workers,
    )
    with (
        distributed.process_group(device) as device,
        training_run(files.work_dir, fingerprint, section=source.section) as run,
    ):
        torch.manual_seed(seed)
        model = build().to(device, memory_format=torch.channels_last)
        prepared = prepare(model, labelled, run) if prepare else nullcontext(labelled)
        with prepared as data:
            _fit(
                model,
                data,
                losses or functools.partial(_losses, settings, precision),
                settings,
                seed=seed,
                precision=precision,
                run=run,
                device=device,
                workers=workers,
            )
            run.write_history(files.history, files.record)
            publish(
                {
                    **published,
                    "state_dict": {name: value.cpu() for name, value in model.state_dict().items()},
                    "settings": settings.plain(),
                    "clusters": clusters,
                    "provenance": {**files.record, **distributed.provenance(device)},
                },
                files.model,
            )


def _losses(
    settings: SegmentationSettings,
    precision: str,
    model: nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, torch.Tensor]:
    images, labels = batch
    with autocast(images.device, precision):
        logits = model(normalize(images))
    loss = hard_pixel_loss(
        upsample(logits, labels.shape[-2:]),
        labels,
        hardest_fraction=settings.hardest_fraction,
        label_smoothing=settings.label_smoothing,
    )
    return {"loss": loss}


def _fit(
    model: nn.Module,
    data: Dataset,
    losses: Losses,
    settings: SegmentationSettings,
    *,
    seed: int,
    precision: str,
    run: TrainingRun,
    device: torch.device,
    workers: int,
) -> None:
    steps_per_epoch = math.ceil(len(data) / settings.batch_size)

    def losses_on_device(parallel: nn.Module, batch: Sequence[torch.Tensor]) -> dict:
        return losses(parallel, [values.to(device, non_blocking=True) for values in batch])

    optimization.train(
        model,
        data,
        losses_on_device,
        name="model",
        optimizer=optimization.build_optimizer(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            name=settings.optimizer,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        ),
        rate=lambda step: learning_rate(step, steps_per_epoch, settings),
        columns=lambda values, rate: {"learning_rate": rate},
        run=run,
        steps=settings.epochs * steps_per_epoch,
        batch_size=settings.batch_size,
        seed=seed,
        precision=precision,
        checkpoint_every=steps_per_epoch,
        device=device,
        workers=workers,
        description=f"train {run.section}",
    )
