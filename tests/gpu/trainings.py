"""Trainings on two devices, whose results are compared."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.maskdistill.torch_tools import in_float64, launching
from workflow_scripts.maskdistill.repository import REPOSITORY

STEPS, STOP = 20, 8
INTERRUPTED = 128 + 15


def float64_command(program: object, folder: Path, device: str, **changes: object) -> list[str]:
    """Write images of different sizes, and return the command for a training on them in float64."""
    folder.mkdir(exist_ok=True)
    launching.write_uneven_scenes(folder)
    arguments = launching.command_line(program, folder, device=device, **changes)
    return [in_float64.__file__, program.__name__, *arguments]


def run(
    command: list[str], *, processes: int | None = None, expected: int = 0, **variables
) -> None:
    """Run a Python program; with `processes`, under torchrun with that many processes."""
    start = [sys.executable]
    if processes is not None:
        start += ["-m", "workflow_scripts.torchrun", "--nproc-per-node", str(processes)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [*start, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == expected, done.stdout[-2000:] + done.stderr[-9000:]


def train(program: object, folder: Path, device: str, **changes: object) -> Path:
    """Train all STEPS steps in float64; returns the folder."""
    run(float64_command(program, folder, device, **changes))
    return folder


def train_on_two(program: object, folder: Path, first: str, then: str, **changes: object) -> Path:
    """As `train`, but STOP steps on the device `first` and the rest on the device `then`."""
    command = float64_command(program, folder, first, **changes)
    run(command, expected=INTERRUPTED, STOP_AFTER=str(STOP))
    (checkpoint,) = (folder / "work").glob("*/last.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == STOP
    run(float64_command(program, folder, then, **changes))
    return folder


def losses(folder: Path) -> np.ndarray:
    """The loss of every step (the second column of the history)."""
    return np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)[:, 1]


def weights_differ(one: Path, two: Path) -> float:
    """The largest difference of two weights, relative to the largest weight of their tensor."""
    states = [torch.load(path / "model.pt", weights_only=True)["state_dict"] for path in (one, two)]
    assert states[0].keys() == states[1].keys()
    return max(
        float((states[1][name].double() - value.double()).abs().max())
        / max(float(value.abs().max()), 1e-12)
        for name, value in states[0].items()
    )


def compare(
    judge: Callable[..., None], what: str, reference: Path, other: Path, *, bound: float = 1e-6
) -> None:
    """Compare the losses of all steps and the final weights of two trainings in float64."""
    expected, found = losses(reference), losses(other)
    assert expected.shape == found.shape == (STEPS,)
    # Relative to the largest loss, because a step without labelled pixels has a loss of 0.
    error = np.abs(found - expected).max() / np.abs(expected).max()
    judge(f"{what}: relative error of the losses of {STEPS} steps", error, at_most=bound)
    judge(f"{what}: relative error of weights", weights_differ(reference, other), at_most=bound)
