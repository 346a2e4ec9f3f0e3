"""Optimisers, learning rates and the training loop of all networks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.device import gradient_scaler
from workflow_scripts.maskdistill.torch_tools.resnet import keep_frozen
from workflow_scripts.maskdistill.torch_tools.sampling import seed_step, training_batches
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun

# Function that is called after each step: (the run's directory, number of steps done, losses and
# learning rate by name).
Observer = Callable[[Path, int, Mapping[str, float]], None]


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict],
    *,
    name: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """SGD or AdamW.

    Args:
        parameters: parameters to train, or groups of them from `decay_groups`.
        name: sgd or adamw.
        momentum: for AdamW, the decay rate of the first moment.
    """
    common = {"lr": learning_rate, "weight_decay": weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(parameters, betas=(momentum, 0.999), **common)
    return torch.optim.SGD(parameters, momentum=momentum, **common)


def decay_groups(decayed: list[nn.Parameter], spared: list[nn.Parameter]) -> list[dict]:
    """Groups of parameters for an optimiser; only those in `decayed` have weight decay."""
    return [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]


def scheduled_rate(
    step: int, *, initial: float, decay: float, milestones: Sequence[int], warmup: int = 0
) -> float:
    """Learning rate of a step: a linear warm-up, then a reduction at each milestone.

    Args:
        step: number of the step, counted from 0.
        initial: rate after the warm-up.
        decay: factor at each milestone.
        milestones: steps at which the rate is reduced.
        warmup: number of warm-up steps.
    """
    passed = sum(step >= milestone for milestone in milestones)
    return initial * decay**passed * min(1.0, (step + 1) / max(1, warmup))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate for all parameters from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def train(
    network: nn.Module,
    data: Dataset,
    losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    *,
    name: str,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    columns: Callable[[Mapping[str, float], float], Mapping[str, float]],
    run: TrainingRun,
    steps: int,
    batch_size: int,
    seed: int,
    precision: str,
    checkpoint_every: int,
    device: torch.device,
    workers: int,
    collate: Callable[[list], Any] | None = None,
    gradient_clip: float | None = None,
    observe: Observer | None = None,
    description: str,
) -> None:
    """Train a network in place, from the last checkpoint to the end of the schedule.

    All random numbers of a step are seeded by the step's number. A training that is interrupted and
    resumed thus gives the same weights as an uninterrupted one.

    Args:
        network: network on `device`.
        data: data set whose items are indexed by `sampling.Sample`.
        losses: function (network, batch of items) → losses by name; their sum is minimised.
        name: name of the network in checkpoints.
        rate: function from a step, counted from 0, to its learning rate.
        columns: function (losses by name, learning rate) → columns of the loss history.
        steps: total number of optimiser steps.
        batch_size: items per step over all processes.
        checkpoint_every: steps between two checkpoints.
        workers: processes that load items; with 0 this process loads them itself.
        collate: function from a list of items to a batch; None stacks the items.
        gradient_clip: largest norm of the gradient; None for no limit.
        observe: called after every step, in the first process only.
        description: text of the progress bar.

    Raises:
        InputError: a loss is not finite, or the processes cannot share a batch evenly.
        Interrupted: SIGTERM arrived; the state is saved.
    """
    scaler = gradient_scaler(device, precision)
    parts = {name: network, "optimizer": optimizer, "scaler": scaler}
    start = run.resume(parts)
    # `parallel` copies weights and batch statistics from the first process to the others.
    model = distributed.parallel(network, device)
    model.train()
    keep_frozen(model)
    with (
        training_batches(
            data,
            batch_size,
            seed=seed,
            start=start,
            stop=steps,
            section=run.section,
            device=device,
            workers=workers,
            collate=collate,
        ) as batches,
        progress_bar(total=steps, initial=start, description=description, unit="step") as bar,
    ):
        for step, batch in enumerate(batches, start):
            set_learning_rate(optimizer, rate(step))
            seed_step(seed, step)
            found = losses(model, batch)
            own = torch.stack([value.detach() for value in found.values()]).tolist()
            values = dict(zip(found, distributed.means(own, device), strict=True))
            total = sum(values.values())
            run.record(step=step + 1, loss=total, **columns(values, rate(step)))
            if observe is not None and run.writes:
                observe(run.directory, step + 1, {**run.history[-1], "learning_rate": rate(step)})
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(sum(found.values())).backward()
            if gradient_clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(network.parameters(), gradient_clip)
            scaler.step(optimizer)
            scaler.update()
            if run.writes:
                bar.set_postfix(loss=f"{total:.3f}", refresh=False)
                bar.update()
            run.end_step(
                parts,
                step=step + 1,
                last=steps,
                checkpoint_every=checkpoint_every,
                device=device,
            )
