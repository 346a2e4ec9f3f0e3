"""The interface of Mask R-CNN implementations ("engines"), and their registry by name.

An engine is imported only when it is chosen, so that the libraries of others are not needed.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.checkpoints import read_checkpoint
from workflow_scripts.maskdistill.files.masks import EncodedMask
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.runtime import RuntimeSettings
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

# name → module that implements `Engine`
_MODULES = {
    "torchvision": "workflow_scripts.maskdistill.mask_rcnn.torchvision_engine",
    "detectron2": "workflow_scripts.maskdistill.mask_rcnn.detectron2_engine",
}


class Candidate(NamedTuple):
    """A predicted object of one image."""

    cluster: int  # 1..C, the category id of the pseudo-labels
    score: float  # confidence, 0 to 1
    box: tuple[float, float, float, float]  # XYWH in pixels of the image
    mask: EncodedMask  # of the image's size, never empty


@dataclass(frozen=True)
class Runtime:
    """Where and how a training runs, which does not change the result.

    The number of torchrun's processes changes only the result of the engine `detectron2`.
    """

    device: torch.device
    workers: int = 0  # processes that decode images
    checkpoint_every: int = RuntimeSettings().checkpoint_every  # steps


class Predictor(Protocol):
    """A trained model on its device."""

    def predict(self, images: Sequence[np.ndarray]) -> list[list[Candidate]]:
        """Predict the candidates of each image, by falling score, in one pass.

        Args:
            images: RGB, H x W x 3 uint8, all of one size.
        """
        ...

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what the network sees of an image of `size`."""
        ...

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize an image to its `input_size`; may be called in several threads."""
        ...

    def predict_prepared(
        self, prepared: Sequence[np.ndarray], size: tuple[int, int]
    ) -> list[list[Candidate]]:
        """As `predict`, of images that `prepare` has resized.

        Args:
            prepared: at least one image.
            size: (height, width) that all of them had before.
        """
        ...


class Engine(Protocol):
    """An implementation of Mask R-CNN: a module with these two functions."""

    def fit(
        self,
        pseudo_labels: Path,
        root: Path,
        *,
        settings: MaskRCNNSettings,
        seed: int,
        files: TrainingFiles,
        runtime: Runtime,
    ) -> None:
        """Train on a COCO dataset file, from the last checkpoint if there is one.

        Args:
            pseudo_labels: COCO dataset file; category ids 1..C, masks as compressed RLE.
            root: folder that its file names are relative to.
            files: its checkpoints and outputs; the model file has "engine" and the entries that
                `predictor` needs.

        Raises:
            InputError: unusable pseudo-labels, settings or initial weights, or a loss that is not
                finite.
            Interrupted: SIGTERM arrived and the state has been saved.
        """
        ...

    def predictor(
        self, model: Mapping, *, settings: CandidateSettings, device: torch.device
    ) -> Predictor:
        """Make a predictor from the content of a model file that `fit` wrote.

        Raises:
            InputError: another version wrote the file; the caller adds the file's name.
        """
        ...


def engine(name: str) -> Engine:
    """Import the engine of that name and its libraries.

    Raises:
        InputError: no such engine, or its libraries are not installed.
    """
    if name not in _MODULES:
        raise InputError(
            f"mask_rcnn.engine: unknown engine {name!r}; choose one of {', '.join(_MODULES)}"
        )
    return importlib.import_module(_MODULES[name])


def load_predictor(
    path: str | os.PathLike, *, settings: CandidateSettings, device: torch.device
) -> Predictor:
    """Load a model file on `device`, with the engine that trained it.

    Raises:
        InputError: missing, damaged or not written by `Engine.fit`.
    """
    remedy = "train_mask_rcnn writes it"
    model = read_checkpoint(path, remedy=remedy)
    if not isinstance(model, Mapping) or "engine" not in model:
        raise InputError(f"{path}: not a Mask R-CNN model; {remedy}")
    chosen = engine(model["engine"])
    try:
        return chosen.predictor(model, settings=settings, device=device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
