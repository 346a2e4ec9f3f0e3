"""Training of DeepLab-v3 on label maps, resumable at any step."""

import concurrent.futures
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, provenance, shards
from workflow_scripts.maskdistill.files.images import read_listed
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.segmentation.deeplab import (
    ARCHITECTURE,
    DeepLab,
    build_deeplab,
    upsample,
)
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX, hard_pixel_loss
from workflow_scripts.maskdistill.segmentation.transforms import draw_view, normalize, warp
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.device import autocast, gradient_scaler
from workflow_scripts.maskdistill.torch_tools.sampling import Sample, seed_step, training_batches
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun, publish, training_run


class LabelSource(NamedTuple):
    """What label maps are, for messages."""

    section: str  # of the config: schedule of a training on them
    classes: str  # what their labels count
    beyond: str  # remedy of a label beyond those
    unlabelled: str  # remedy where no image has a label


PSEUDO_LABELS = LabelSource(
    section="segmentation",
    classes="clusters",
    beyond="remove the label maps and run again",
    unlabelled="lower confidence.threshold",
)


class LabelledImages(torch.utils.data.Dataset):
    """Images with label maps, seen through the random view that a `Sample` seeds.

    Label maps stay in memory as PNG bytes in Arrow buffers, which worker processes share; images
    are decoded when they are asked for.

    Args:
        paths: shards of label maps.
        root: folder that file names are relative to.
        clusters: C, the largest label.
        source: what the label maps are.
        workers: threads that check the label maps.

    Raises:
        InputError: a label above C, or no image with any label. Images without any are left out.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        root: str | os.PathLike,
        *,
        clusters: int,
        settings: SegmentationSettings,
        seed: int,
        source: LabelSource = PSEUDO_LABELS,
        workers: int = 1,
    ) -> None:
        table = shards.read_table(paths, ["file_name", "image"])
        names, encoded = table["file_name"], pc.struct_field(table["image"], "bytes")

        def is_labelled(index: int) -> bool:
            name = names[index].as_py()
            classes = _classes(encoded[index].as_py(), name)
            largest = int(classes.max())
            if largest > clusters:
                raise InputError(
                    f"label map of {name}: label {largest}, but there are {clusters} "
                    f"{source.classes}; {source.beyond}"
                )
            return largest != IGNORE_INDEX

        with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
            labelled = pa.array(pool.map(is_labelled, range(len(names))), pa.bool_())
        self._names, self._encoded = names.filter(labelled), encoded.filter(labelled)
        if not len(self._names):
            raise InputError(
                f"{', '.join(map(str, paths))}: no image has a label to learn from; "
                f"{source.unlabelled}"
            )
        self._root, self._settings, self._seed = Path(root), settings, seed

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (crop x crop x 3, uint8) and labels (crop x crop, int64) of one place."""
        name = self._names[sample.index].as_py()
        classes = _classes(self._encoded[sample.index].as_py(), name)
        image = read_listed(self._root / name, classes.shape)
        settings = self._settings
        view = draw_view(
            classes.shape,
            sample.generator(self._seed),
            crop_size=settings.crop_size,
            scale=settings.scale,
            rotation=settings.rotation,
            flip=settings.flip,
        )
        image, classes = warp(image, classes, view, settings.crop_size)
        return torch.from_numpy(image), torch.from_numpy(classes).long()


def _classes(png: bytes, name: str) -> np.ndarray:
    """A label map as int32 with `IGNORE_INDEX`."""
    try:
        labels = label_maps.decode_png(png)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"label map of {name}: damaged ({error}); remove its shard and run again"
        ) from error
    classes = labels.astype(np.int32)
    classes[labels == label_maps.ignore_value(labels)] = IGNORE_INDEX
    return classes


def learning_rate(step: int, steps_per_epoch: int, settings: SegmentationSettings) -> float:
    """The learning rate of a step, counted from 0."""
    passed = sum(step >= epoch * steps_per_epoch for epoch in settings.learning_rate_milestones)
    return settings.learning_rate * settings.learning_rate_decay**passed


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
    """Train on label maps, going on from the last checkpoint if there is one.

    A run that was interrupted gives the weights of one that was not: views, dropout and learning
    rate depend on the step alone. Under torchrun every process takes its part of each batch. Their
    number, which may differ from that before the interruption, changes the result only by the
    order of floating-point sums.

    Args:
        paths: shards of label maps; images without any label are left out.
        root: folder that file names are relative to.
        work_dir: keeps the checkpoints of every training, by fingerprint.
        model_path: for the trained model: state_dict, settings, clusters, and for information
            the device and the number of processes that finished the training.
        history_path: for loss and learning rate of every step, as CSV.
        record: what both files say of their making, see `provenance.record`.
        workers: processes that decode images; 0 decodes in this one.

    Raises:
        InputError: unusable label maps, images, settings or weights; a loss not finite.
        Interrupted: SIGTERM arrived and the state has been saved.
    """
    fingerprint = {
        "stage": "train_segmentation",
        "settings": settings.plain() | {"weights": None},
        "weights": settings.weights and provenance.file_digest(settings.weights),
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
    """Train whatever parameters of a model want gradients; arguments and errors as of `train`.

    Args:
        build: makes the model with `clusters` + 1 outputs; called with `seed` set.
        source: what the label maps are.
        fingerprint: what decides the result besides label maps, clusters and seed.
    """
    fingerprint = {
        **fingerprint,
        "label_maps": [provenance.file_digest(path) for path in paths],
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
        trainer = _Trainer(model, settings, seed, device)
        trainer.fit(run, data, workers)
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


def _optimizer(model: nn.Module, settings: SegmentationSettings) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, **common)
    return torch.optim.AdamW(parameters, betas=(settings.momentum, 0.999), **common)


class _Trainer:
    """A model with its optimiser, on this process's device."""

    def __init__(
        self, model: nn.Module, settings: SegmentationSettings, seed: int, device: torch.device
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, device
        self.model = model.to(device, memory_format=torch.channels_last)
        self.optimizer = _optimizer(self.model, settings)
        self.scaler = gradient_scaler(device, settings.precision)

    def fit(self, run: TrainingRun, data: LabelledImages, workers: int) -> None:
        settings = self.settings
        steps_per_epoch = math.ceil(len(data) / settings.batch_size)
        last = settings.epochs * steps_per_epoch
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        start = run.resume(parts)
        # Buffers (batch statistics) and weights are copied from the first process here.
        parallel = distributed.parallel(self.model, self.device)
        parallel.train()
        with (
            training_batches(
                data,
                settings.batch_size,
                seed=self.seed,
                start=start,
                stop=last,
                section=run.section,
                device=self.device,
                workers=workers,
            ) as batches,
            progress_bar(
                total=last, initial=start, description=f"train {run.section}", unit="step"
            ) as bar,
        ):
            for step, (images, labels) in enumerate(batches, start):
                rate = learning_rate(step, steps_per_epoch, settings)
                loss = self._step(parallel, images, labels, step, rate)
                (loss,) = distributed.means([loss], self.device)
                run.record(step=step + 1, loss=loss, learning_rate=rate)
                if run.writes:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    bar.update()
                run.end_step(
                    parts,
                    step=step + 1,
                    last=last,
                    checkpoint_every=steps_per_epoch,
                    device=self.device,
                )

    def _step(
        self,
        parallel: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        step: int,
        rate: float,
    ) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed_step(self.seed, step)  # dropout is the one source of randomness here
        images = normalize(images.to(self.device, non_blocking=True))
        labels = labels.to(self.device, non_blocking=True)
        with autocast(self.device, self.settings.precision):
            logits = parallel(images)
        loss = hard_pixel_loss(
            upsample(logits, labels.shape[-2:]),
            labels,
            hardest_fraction=self.settings.hardest_fraction,
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()
