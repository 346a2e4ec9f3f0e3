"""The training loop: whatever the interruptions, workers and checkpoints, the same weights."""

import bisect
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from workflow_scripts.maskdistill.files.provenance import file_digest
from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime
from workflow_scripts.maskdistill.mask_rcnn.network import NORM_LAYERS
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import Example
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed, training_run
from workflow_scripts.maskdistill.torch_tools.device import autocast, gradient_scaler
from workflow_scripts.maskdistill.torch_tools.resnet import keep_frozen
from workflow_scripts.maskdistill.torch_tools.sampling import seed_step, training_batches
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun

# Told of every step: the run's directory, the number of steps done, losses and learning rate.
Observer = Callable[[Path, int, Mapping[str, float]], None]


def fit_network(
    network: nn.Module,
    examples: Dataset,
    settings: MaskRCNNSettings,
    *,
    clusters: int,
    pseudo_labels: Path,
    seed: int,
    work_dir: Path,
    model: Path,
    history: Path,
    record: Mapping,
    runtime: Runtime,
    observe: Observer | None = None,
) -> None:
    """Train an engine's network and write its files; the arguments are those of `Engine.fit`.

    Args:
        network: from lists of images and targets to losses by name, see `network.MaskRCNN`.
        examples: makes the `Example` of a `Sample`.
        clusters: number of classes, for the model file.
        observe: called on the first process after every step.
    """
    with (
        distributed.process_group(runtime.device) as device,
        training_run.training_run(
            work_dir,
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
                "provenance": {**record, **distributed.provenance(device)},
                "state_dict": {k: v.cpu() for k, v in network.state_dict().items()},
            },
            model,
        )
        run.write_history(history, record)


def fingerprint(pseudo_labels: Path, *, settings: MaskRCNNSettings, seed: int) -> dict:
    """What decides the result of a training; files count by content, not by name.

    The number of processes does so for the engine Detectron2 only, see `detectron2_network`.
    """
    values = dict(settings)
    if settings.weights is not None:
        values["weights"] = file_digest(settings.weights)
    found = {"settings": values, "seed": seed, "pseudo_labels": file_digest(pseudo_labels)}
    if settings.engine == "detectron2" and distributed.world_size() > 1:
        found["processes"] = distributed.world_size()
    return found


def learning_rate(settings: MaskRCNNSettings, step: int) -> float:
    """Rate of the step with that number (from 0): linear warm-up, then a fall at each milestone."""
    rate = settings.learning_rate * settings.learning_rate_decay ** bisect.bisect_right(
        settings.learning_rate_steps, step
    )
    return rate * min(1.0, (step + 1) / max(1, settings.warmup_iterations))


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
    """Train `network` in place to the end of the schedule, from the run's last checkpoint on.

    Everything random in a step is seeded by the step, so that an interrupted and resumed training
    ends with the weights of an uninterrupted one.

    Raises:
        InputError: a loss that is not finite, or a batch that the processes cannot share.
        Interrupted: SIGTERM arrived; the state is saved.
    """
    device = runtime.device
    network.to(device)
    optimizer = build_optimizer(network, settings)
    scaler = gradient_scaler(device, settings.precision)
    parts = {"network": network, "optimizer": optimizer, "scaler": scaler}
    start = run.resume(parts)
    model = distributed.parallel(network, device)
    model.train()
    keep_frozen(model)
    with (
        training_batches(
            examples,
            settings.batch_size,
            seed=seed,
            start=start,
            stop=settings.iterations,
            section=run.section,
            device=device,
            workers=runtime.workers,
            collate=list,
        ) as batches,
        progress_bar(
            total=settings.iterations, initial=start, description="train_mask_rcnn", unit="step"
        ) as bar,
    ):
        for step, batch in enumerate(batches, start):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            seed_step(seed, step)  # samplers of anchors and proposals
            with autocast(device, settings.precision):
                losses = model(*_to_device(batch, device))
            loss = sum(losses.values())
            names = [name.removeprefix("loss_") for name in losses]
            own = torch.stack([value.detach() for value in losses.values()]).tolist()
            values = dict(zip(names, distributed.means(own, device), strict=True))
            run.record(step=step + 1, loss=sum(values.values()), **values)
            if observe is not None and run.writes:
                rate = optimizer.param_groups[0]["lr"]
                observe(run.directory, step + 1, {**run.history[-1], "learning_rate": rate})
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            if settings.gradient_clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            if run.writes:
                bar.set_postfix(loss=f"{sum(values.values()):.3f}", refresh=False)
                bar.update()
            run.end_step(
                parts,
                step=step + 1,
                last=settings.iterations,
                checkpoint_every=runtime.checkpoint_every,
                device=device,
            )


def build_optimizer(network: nn.Module, settings: MaskRCNNSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over what is not frozen; normalisation is spared weight decay."""
    norms = (nn.modules.batchnorm._BatchNorm, NORM_LAYERS["frozen"], nn.GroupNorm)
    decayed, spared = [], []
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                (spared if isinstance(module, norms) else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            lr=settings.learning_rate,
            betas=(settings.momentum, 0.999),
            weight_decay=settings.weight_decay,
        )
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
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
