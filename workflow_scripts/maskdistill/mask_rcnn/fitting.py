"""Training of Mask R-CNN for all engines: from an engine's network to the output files."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime
from workflow_scripts.maskdistill.mask_rcnn.network import NORM_LAYERS
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import Example
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed, optimization, training_run
from workflow_scripts.maskdistill.torch_tools.device import autocast
from workflow_scripts.maskdistill.torch_tools.optimization import Observer
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles, TrainingRun


def fit_network(
    network: nn.Module,
    examples: Dataset,
    settings: MaskRCNNSettings,
    *,
    clusters: int,
    pseudo_labels: Path,
    seed: int,
    files: TrainingFiles,
    runtime: Runtime,
    observe: Observer | None = None,
) -> None:
    """Train an engine's network and write the model file and the loss history.

    Arguments that are not listed here are described in `Engine.fit`.

    Args:
        network: has the interface of `network.MaskRCNN`.
        examples: data set that returns an `Example` for a `Sample`.
        clusters: number of classes, for the model file.
        observe: called after every step, in the first process only.
    """
    with (
        distributed.process_group(runtime.device) as device,
        training_run.training_run(
            files.work_dir,
            fingerprint(pseudo_labels, settings=settings, seed=seed),
            section="mask_rcnn",
        ) as run,
    ):
        runtime = dataclasses.replace(runtime, device=device)
        train(network, examples, settings, seed=seed, run=run, runtime=runtime, observe=observe)
        training_run.publish(
            {
                "engine": settings.engine,
                "settings": dict(settings),
                "clusters": clusters,
                "seed": seed,
                "provenance": {**files.record, **distributed.provenance(device)},
                "state_dict": {k: v.cpu() for k, v in network.state_dict().items()},
            },
            files.model,
        )
        run.write_history(files.history, files.record)


def fingerprint(pseudo_labels: Path, *, settings: MaskRCNNSettings, seed: int) -> dict:
    """Everything that the result of a training depends on; see `training_run.training_run`.

    The number of processes is part of it only with `detectron2`, see `detectron2_network`.
    """
    weights = settings.weights and Path(settings.weights)
    found = {
        "settings": dict(settings) | {"weights": weights},
        "seed": seed,
        "pseudo_labels": Path(pseudo_labels),
    }
    if settings.engine == "detectron2" and distributed.world_size() > 1:
        found["processes"] = distributed.world_size()
    return found


def train(
    network: nn.Module,
    examples: Dataset,
    settings: MaskRCNNSettings,
    *,
    seed: int,
    run: TrainingRun,
    runtime: Runtime,
    observe: Observer | None = None,
) -> None:
    """Train `network` in place; see `optimization.train`."""
    device = runtime.device
    network.to(device)

    def losses(model: nn.Module, batch: list[Example]) -> dict[str, torch.Tensor]:
        with autocast(device, settings.precision):
            found = model(*_to_device(batch, device))
        return {name.removeprefix("loss_"): loss for name, loss in found.items()}

    optimization.train(
        network,
        examples,
        losses,
        name="network",
        optimizer=build_optimizer(network, settings),
        rate=functools.partial(learning_rate, settings),
        columns=lambda values, rate: values,
        run=run,
        steps=settings.iterations,
        batch_size=settings.batch_size,
        seed=seed,
        precision=settings.precision,
        checkpoint_every=runtime.checkpoint_every,
        device=device,
        workers=runtime.workers,
        collate=list,
        gradient_clip=settings.gradient_clip,
        observe=observe,
        description="train_mask_rcnn",
    )


def learning_rate(settings: MaskRCNNSettings, step: int) -> float:
    """The learning rate of a step; steps are counted from 0."""
    return optimization.scheduled_rate(
        step,
        initial=settings.learning_rate,
        decay=settings.learning_rate_decay,
        milestones=settings.learning_rate_steps,
        warmup=settings.warmup_iterations,
    )


def build_optimizer(network: nn.Module, settings: MaskRCNNSettings) -> torch.optim.Optimizer:
    """SGD or AdamW for the trainable parameters, without weight decay in normalisation layers."""
    norms = (nn.modules.batchnorm._BatchNorm, NORM_LAYERS["frozen"], nn.GroupNorm)
    decayed, spared = [], []
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                (spared if isinstance(module, norms) else decayed).append(parameter)
    return optimization.build_optimizer(
        optimization.decay_groups(decayed, spared),
        name=settings.optimizer,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def _to_device(
    batch: list[Example], device: torch.device
) -> tuple[list[torch.Tensor], list[Mapping[str, torch.Tensor]]]:
    moved = [Example(*(part.to(device, non_blocking=True) for part in item)) for item in batch]
    return (
        [item.image for item in moved],
        [{"boxes": item.boxes, "labels": item.labels, "masks": item.masks} for item in moved],
    )
