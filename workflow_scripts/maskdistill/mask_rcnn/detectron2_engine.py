"""The engine on Detectron2; fulfils `engines.Engine`. It downloads nothing."""

import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime
from workflow_scripts.maskdistill.mask_rcnn.predictor import NetworkPredictor, load_network
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import PseudoLabels
from workflow_scripts.maskdistill.mask_rcnn.settings import PredictionSettings, TrainingSettings
from workflow_scripts.maskdistill.mask_rcnn.training import fit_network
from workflow_scripts.maskdistill.training_run import Interrupted

try:
    from detectron2.engine import launch
    from detectron2.utils import comm
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
        f"mask_rcnn.engine: Detectron2 cannot be imported here ({error}); install it (README, "
        "section Detectron2; for conda: envs/detectron2.yaml) or set mask_rcnn.engine: torchvision"
    ) from error


def fit(
    pseudo_labels: Path,
    root: Path,
    *,
    settings: TrainingSettings,
    seed: int,
    work_dir: Path,
    model: Path,
    history: Path,
    record: Mapping,
    runtime: Runtime,
) -> None:
    """Train on a COCO dataset file; see `engines.Engine.fit`.

    Under torchrun this is one of its processes; otherwise Detectron2's launcher starts
    `runtime.processes` of them.
    """
    _check_processes(runtime)
    arguments = {
        "pseudo_labels": pseudo_labels,
        "root": root,
        "settings": settings,
        "seed": seed,
        "work_dir": work_dir,
        "model": model,
        "history": history,
        "runtime": runtime,
    }
    if runtime.processes == 1:
        _fit(**arguments)
    else:
        share = math.ceil(runtime.workers / runtime.processes)
        arguments["runtime"] = dataclasses.replace(runtime, workers=share)
        _launch(runtime.processes, arguments)


def predictor(
    model: Mapping, *, settings: PredictionSettings, device: torch.device
) -> NetworkPredictor:
    """Make a predictor of a model file's content; see `engines.Engine.predictor`."""
    return load_network(build_mask_rcnn, model, settings=settings, device=device, resize=resize)


def _fit(
    pseudo_labels: Path,
    root: Path,
    *,
    settings: TrainingSettings,
    seed: int,
    **arguments: Any,
) -> None:
    """Train in this process, alone or as one of several."""
    # Detectron2 trusts the file; ours is checked, with a message that names the remedy.
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
            observe=events.write,
            **arguments,
        )


class _Events:
    """Losses and Detectron2's own statistics as tfevents in the run's directory."""

    def __init__(self, network: Detectron2MaskRCNN) -> None:
        self._network = network
        self._writer: SummaryWriter | None = None

    def write(self, directory: Path, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            # What a killed run wrote after its last checkpoint is not to be shown.
            self._writer = SummaryWriter(str(directory), purge_step=step)
        for name, value in {**values, **self._network.statistics}.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _check_processes(runtime: Runtime) -> None:
    if runtime.processes > 1 and "RANK" in os.environ:
        raise InputError("--processes: torchrun has started the processes; leave it out")
    if runtime.device.type == "cuda" and runtime.processes > torch.cuda.device_count():
        raise InputError(
            f"--processes: {runtime.processes} processes, but {torch.cuda.device_count()} GPUs here"
        )


def _launch(processes: int, arguments: Mapping[str, Any]) -> None:
    """Run `_fit` in several processes, with one line of error and SIGTERM as in a single one."""

    def terminate(*_: object) -> None:
        for child in multiprocessing.active_children():
            child.terminate()

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        launch(_work, processes, dist_url="auto", args=(arguments,))
    except ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        if "InputError: " in reason:
            raise InputError(reason.split("InputError: ")[-1]) from error
        raise
    except ProcessExitedException as error:
        if error.exit_code in (Interrupted().code, -signal.SIGTERM):
            raise Interrupted from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def _work(arguments: Mapping[str, Any]) -> None:
    """One process of Detectron2's launcher, which looks like one of torchrun's from here on."""
    os.environ.update(
        RANK=str(comm.get_rank()),
        LOCAL_RANK=str(comm.get_local_rank()),
        WORLD_SIZE=str(comm.get_world_size()),
    )
    _fit(**arguments)
