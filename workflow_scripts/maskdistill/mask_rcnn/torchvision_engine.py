"""The engine on torchvision; fulfils `engines.Engine`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from workflow_scripts.maskdistill import distributed, images, training_run
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn.engines import Candidate, Runtime
from workflow_scripts.maskdistill.mask_rcnn.network import MaskRCNN, build_mask_rcnn
from workflow_scripts.maskdistill.mask_rcnn.pasting import paste
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import PseudoLabels
from workflow_scripts.maskdistill.mask_rcnn.settings import (
    PredictionSettings,
    TrainingSettings,
    training_settings,
)
from workflow_scripts.maskdistill.mask_rcnn.training import train
from workflow_scripts.maskdistill.shards import file_digest

NAME = "torchvision"


def fit(
    pseudo_labels: Path,
    root: Path,
    *,
    settings: TrainingSettings,
    seed: int,
    work_dir: Path,
    model: Path,
    history: Path,
    runtime: Runtime,
) -> None:
    """Train on a COCO dataset file; see `engines.Engine.fit`."""
    examples = PseudoLabels(
        pseudo_labels,
        root,
        sides=settings.train_sides,
        longer_side=settings.longer_side,
        flip=settings.flip,
        seed=seed,
    )
    torch.manual_seed(seed)
    network = build_mask_rcnn(settings, examples.clusters)
    with (
        distributed.process_group(runtime.device) as device,
        training_run.training_run(
            work_dir, fingerprint(pseudo_labels, settings=settings, seed=seed)
        ) as run,
    ):
        runtime = dataclasses.replace(runtime, device=device)
        train(network, examples, settings, seed=seed, run=run, runtime=runtime)
        training_run.publish(
            {
                "engine": NAME,
                "settings": dataclasses.asdict(settings),
                "clusters": examples.clusters,
                "seed": seed,
                "state_dict": {k: v.cpu() for k, v in network.state_dict().items()},
            },
            model,
        )
        run.write_history(history)


def fingerprint(pseudo_labels: Path, *, settings: TrainingSettings, seed: int) -> dict:
    """What decides the result of a training; files count by content, not by name."""
    values = dataclasses.asdict(settings)
    if settings.weights is not None:
        values["weights"] = file_digest(settings.weights)
    return {"settings": values, "seed": seed, "pseudo_labels": file_digest(pseudo_labels)}


def predictor(
    model: Mapping, *, settings: PredictionSettings, device: torch.device
) -> "TorchvisionPredictor":
    """Make a predictor of a model file's content; see `engines.Engine.predictor`."""
    try:
        network = build_mask_rcnn(
            training_settings(model["settings"]),
            model["clusters"],
            prediction=settings,
            initial_weights=False,
        )
        network.load_state_dict(model["state_dict"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the Mask R-CNN model was written by another version ({reason}); train it again"
        ) from error
    return TorchvisionPredictor(network.to(device).eval(), settings)


class TorchvisionPredictor:
    """A trained network on its device; see `engines.Predictor`."""

    def __init__(self, network: MaskRCNN, settings: PredictionSettings) -> None:
        self.network, self.settings = network, settings

    @torch.inference_mode()
    def predict(self, pictures: Sequence[np.ndarray]) -> list[list[Candidate]]:
        """The candidates of each image (H x W x 3 uint8, all of one size), by falling score."""
        if not pictures:
            return []
        size = pictures[0].shape[:2]
        resized = images.resized_size(
            *size, shorter_side=self.settings.test_side, longer_side=self.settings.longer_side
        )
        device = self.network.mean.device
        pixels = np.stack([images.resize(picture, resized) for picture in pictures])
        batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
        scale = torch.tensor([size[1] / resized[1], size[0] / resized[0]] * 2)
        return [
            _candidates({name: value.cpu() for name, value in found.items()}, scale, size)
            for found in self.network(list(batch))
        ]


def _candidates(
    found: dict[str, torch.Tensor], scale: torch.Tensor, size: tuple[int, int]
) -> list[Candidate]:
    """Detections on the resized image to candidates on the image itself, without empty masks."""
    candidates = []
    # A stable sort: what comes first on a tie must not depend on the batch.
    order = torch.argsort(found["scores"], descending=True, stable=True).tolist()
    boxes = (found["boxes"] * scale).tolist()
    for index in order:
        left, top, right, bottom = boxes[index]
        mask = paste(found["masks"][index, 0].numpy(), boxes[index], size)
        if mask is not None:
            candidates.append(
                Candidate(
                    cluster=int(found["labels"][index]),
                    score=float(found["scores"][index]),
                    box=(left, top, right - left, bottom - top),
                    mask=mask,
                )
            )
    return candidates
