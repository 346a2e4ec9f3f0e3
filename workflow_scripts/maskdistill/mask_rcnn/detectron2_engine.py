"""The engine `detectron2`: implements `engines.Engine` with Detectron2, without any download."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime
from workflow_scripts.maskdistill.mask_rcnn.fitting import fit_network
from workflow_scripts.maskdistill.mask_rcnn.predictor import NetworkPredictor, load_network
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import PseudoLabels
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

try:
    from torch.utils.tensorboard import SummaryWriter

    from workflow_scripts.maskdistill.mask_rcnn.detectron2_data import (
        RegisteredDataset,
        registered,
        resize,
    )
    from workflow_scripts.maskdistill.mask_rcnn.detectron2_network import (
        Detectron2MaskRCNN,
        build_mask_rcnn,
    )
except ImportError as error:
    raise InputError(
        f"mask_rcnn.engine: Detectron2 cannot be imported here ({error}); install it "
        "(docs/paper.md; for conda: envs/detectron2.yaml) or set mask_rcnn.engine: torchvision"
    ) from error


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
    if distributed.world_size() > 1 and distributed.rank() == 0:
        print(
            f"Detectron2 with {distributed.world_size()} processes: the result depends on their "
            "number, because each pads its part of a batch, samples regions and averages "
            "losses over them on its own",
            flush=True,
        )
    # `PseudoLabels` checks the file with clear error messages; Detectron2 does not check it.
    clusters = PseudoLabels(
        pseudo_labels,
        root,
        sides=settings.train_sides,
        longer_side=settings.longer_side,
        flip=settings.flip,
        seed=seed,
    ).clusters
    torch.manual_seed(seed)
    network = build_mask_rcnn(settings, clusters)
    with (
        registered(pseudo_labels, root) as name,
        contextlib.closing(_Events(network)) as events,
    ):
        fit_network(
            network,
            RegisteredDataset(name, settings, seed=seed),
            settings,
            clusters=clusters,
            pseudo_labels=pseudo_labels,
            seed=seed,
            files=files,
            runtime=runtime,
            observe=events.write,
        )


def predictor(
    model: Mapping, *, settings: CandidateSettings, device: torch.device
) -> NetworkPredictor:
    """Make a predictor of a model file's content; see `engines.Engine.predictor`."""
    return load_network(build_mask_rcnn, model, settings=settings, device=device, resize=resize)


class _Events:
    """Writes losses and Detectron2's statistics to the training's directory, for TensorBoard."""

    def __init__(self, network: Detectron2MaskRCNN) -> None:
        self._network = network
        self._writer: SummaryWriter | None = None

    def write(self, directory: Path, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            # `purge_step` hides values that an interrupted run wrote after its last checkpoint.
            self._writer = SummaryWriter(str(directory), purge_step=step)
        for name, value in {**values, **self._network.statistics}.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
