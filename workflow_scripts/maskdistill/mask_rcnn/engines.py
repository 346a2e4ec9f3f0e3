"""The interface that implementations of Mask R-CNN ("engines") have, and a registry of their names.

An engine is imported only when it is chosen, so that the libraries of other engines need not be
installed.
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

# name of an engine → module that implements `Engine`
_MODULES = {
    "torchvision": "workflow_scripts.maskdistill.mask_rcnn.torchvision_engine",
    "detectron2": "workflow_scripts.maskdistill.mask_rcnn.detectron2_engine",
}


class Candidate(NamedTuple):
    """A predicted object of one image."""

    cluster: int  # 1..C, the category id of the pseudo-labels
    score: float  # confidence, 0 to 1
    box: tuple[float, float, float, float]  # XYWH in pixels of the image
    mask: EncodedMask  # at the image's size, never empty


@dataclass(frozen=True)
class Runtime:
    """Where and how a training runs; these values do not change its result.

    The number of torchrun's processes does not change it either, except with `detectron2`.
    """

    device: torch.device
    workers: int = 0  # processes that decode images; 0: the training process decodes them
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
        """(height, width) to which an image of `size` is resized for the network."""
        ...

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize an image to its `input_size`; may be called in several threads."""
        ...

    def predict_prepared(
        self, prepared: Sequence[np.ndarray], size: tuple[int, int]
    ) -> list[list[Candidate]]:
        """As `predict`, for images that `prepare` has already resized.

        Args:
            prepared: at least one image.
            size: (height, width) of all these images before `prepare`.
        """
        ...


class Engine(Protocol):
    """An implementation of Mask R-CNN: a Python module with these two functions."""

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
        """Train on a COCO dataset file; continues from the last checkpoint if there is one.

        Args:
            pseudo_labels: COCO dataset file; category ids 1..C, masks as compressed RLE.
            root: folder that the file names in it are relative to.
            files: checkpoints and outputs of the training. The model file has the entry "engine",
                and all entries that `predictor` needs.

        Raises:
            InputError: pseudo-labels, settings or initial weights are unusable, or a loss is not
                finite.
            Interrupted: SIGTERM arrived, and the state has been saved.
        """
        ...

    def predictor(
        self, model: Mapping, *, settings: CandidateSettings, device: torch.device
    ) -> Predictor:
        """Make a predictor from the content of a model file that `fit` wrote.

        Raises:
            InputError: another version of this program wrote the file. The caller adds the file's
                name to the message.
        """
        ...


def engine(name: str) -> Engine:
    """Import the module of the engine `name`, with its libraries.

    Raises:
        InputError: the name is unknown, or the engine's libraries are not installed.
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
        InputError: the file is missing or damaged, or `Engine.fit` did not write it.
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
