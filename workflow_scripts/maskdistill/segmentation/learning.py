"""Training of DeepLab-v3 on label maps, resumable at any step."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from workflow_scripts.maskdistill.segmentation.deeplab import ARCHITECTURE, DeepLab, build_deeplab
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
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun, publish, training_run


def learning_rate(step: int, steps_per_epoch: int, settings: SegmentationSettings) -> float:
    """The learning rate of a step, counted from 0."""
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
    work_dir: str | os.PathLike,
    model_path: str | os.PathLike,
    history_path: str | os.PathLike,
    record: Mapping,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Train on label maps, from the last checkpoint if there is one.

    An interruption does not change the resulting weights, because views, dropout and learning rate
    only depend on the step. Under torchrun each process takes its part of every batch. Their
    number, which may differ from that before the interruption, changes the result only by the
    order of floating-point sums.

    Args:
        paths: shards of label maps; images without any label are left out.
        root: folder that file names are relative to.
        work_dir: folder of the checkpoints of every training, by fingerprint.
        model_path: file to write the trained model to: state_dict, settings, clusters, and for
            information the device and the number of processes that finished the training.
        history_path: CSV file to write loss and learning rate of every step to.
        record: provenance record of both files.
        workers: processes that decode images; 0 decodes in this one.

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
        work_dir=work_dir,
        model_path=model_path,
        history_path=history_path,
        record=record,
        device=device,
        workers=workers,
    )


def train_model(
    build: Callable[[], DeepLab],
    paths: Sequence[str | os.PathLike],
    root: str | os.PathLike,
    *,
    clusters: int,
    settings: SegmentationSettings,
    seed: int,
    source: LabelSource,
    fingerprint: Mapping,
    work_dir: str | os.PathLike,
    model_path: str | os.PathLike,
    history_path: str | os.PathLike,
    record: Mapping,
    device: torch.device,
    workers: int = 0,
) -> None:
    """Train the parameters of a model that require gradients; see `train` for the rest.

    Args:
        build: makes the model with `clusters` + 1 outputs; called after seeding torch.
        source: kind of label maps, for messages.
        fingerprint: everything that the result depends on besides label maps, clusters and seed;
            see `training_run.fingerprint_text`.
    """
    fingerprint = {
        **fingerprint,
        "label_maps": [Path(path) for path in paths],
        "clusters": clusters,
        "seed": seed,
    }
    data = LabelledImages(
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
        training_run(work_dir, fingerprint, section=source.section) as run,
    ):
        torch.manual_seed(seed)
        model = build()
        _fit(model, data, settings, seed=seed, run=run, device=device, workers=workers)
        run.write_history(history_path, record)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        publish(
            {
                "state_dict": state,
                "settings": settings.plain(),
                "clusters": clusters,
                "provenance": {**record, **distributed.provenance(device)},
            },
            model_path,
        )


def _fit(
    model: DeepLab,
    data: LabelledImages,
    settings: SegmentationSettings,
    *,
    seed: int,
    run: TrainingRun,
    device: torch.device,
    workers: int,
) -> None:
    model.to(device, memory_format=torch.channels_last)
    steps_per_epoch = math.ceil(len(data) / settings.batch_size)

    def losses(
        parallel: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        images, labels = (values.to(device, non_blocking=True) for values in batch)
        with autocast(device, settings.precision):
            logits = parallel(normalize(images))
        loss = hard_pixel_loss(
            upsample(logits, labels.shape[-2:]), labels, hardest_fraction=settings.hardest_fraction
        )
        return {"loss": loss}

    optimization.train(
        model,
        data,
        losses,
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
        precision=settings.precision,
        checkpoint_every=steps_per_epoch,
        device=device,
        workers=workers,
        description=f"train {run.section}",
    )
