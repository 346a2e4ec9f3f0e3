"""The engine `torchvision`: implements `engines.Engine` with parts of torchvision."""

from collections.abc import Mapping
from pathlib import Path

import torch

from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime
from workflow_scripts.maskdistill.mask_rcnn.fitting import fit_network
from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.mask_rcnn.predictor import NetworkPredictor, load_network
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import PseudoLabels
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles


def fit(
    pseudo_labels: Path,
    root: Path,
    *,
    settings: MaskRCNNSettings,
    seed: int,
    files: TrainingFiles,
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
    fit_network(
        build_mask_rcnn(settings, examples.clusters),
        examples,
        settings,
        clusters=examples.clusters,
        pseudo_labels=pseudo_labels,
        seed=seed,
        files=files,
        runtime=runtime,
    )


def predictor(
    model: Mapping, *, settings: CandidateSettings, device: torch.device
) -> NetworkPredictor:
    """Make a predictor of a model file's content; see `engines.Engine.predictor`."""
    return load_network(build_mask_rcnn, model, settings=settings, device=device)
