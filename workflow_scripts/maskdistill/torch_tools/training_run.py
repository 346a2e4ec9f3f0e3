"""A training that continues after being killed: lock, checkpoints, loss history.

Each training has its own directory, named by the hash of its fingerprint: all settings and inputs
that the result depends on. The directory is no output of the workflow, because Snakemake deletes
outputs and logs of a job before it runs the job again.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
from torch import nn

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import atomic_path, report_full_disk
from workflow_scripts.maskdistill.files.checkpoints import read_checkpoint
from workflow_scripts.maskdistill.torch_tools import distributed

# Types of the objects whose state is saved in a checkpoint.
Part = nn.Module | torch.optim.Optimizer | torch.amp.GradScaler
# Seconds to wait for an earlier process of the same training, which may still save its state. After
# a job is killed by SIGKILL, its loading processes continue for a while and hold the lock.
LOCK_TIMEOUT = 120.0


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training keeps its checkpoints, and which files it writes at its end."""

    work_dir: Path  # folder with one folder of checkpoints per training, see `training_run`
    model: Path  # model file, see `publish`
    history: Path  # CSV file with the losses of every step
    record: Mapping  # provenance record of model file and history


class Interrupted(SystemExit):
    """The training received SIGTERM and has saved its state; the exit code is 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class TrainingRun:
    """Checkpoints, loss history and interruption of one training; made by `training_run`.

    Under torchrun, only the first process reads and writes files; it sends checkpoints to the
    others.
    """

    def __init__(self, directory: Path, section: str, *, writes: bool = True) -> None:
        self.directory = directory
        self.section = section
        self.writes = writes
        self._checkpoint = directory / "last.pt"
        self._history_file = directory / "history.jsonl"
        self._stop = threading.Event()
        self.history: list[dict] = []

    def resume(self, parts: Mapping[str, Part]) -> int:
        """Restore the parts of a training from the last checkpoint.

        Args:
            parts: network, optimiser and gradient scaler, by the names that `end_step` saves.

        Returns:
            The number of optimiser steps done; 0 without a checkpoint.
        """
        state = self.load()
        if state is None:
            return 0
        for name, part in parts.items():
            if state[name]:  # empty for a scaler that is not used (no float16)
                part.load_state_dict(state[name])
        return state["step"]

    def end_step(
        self,
        parts: Mapping[str, Part],
        *,
        step: int,
        last: int,
        checkpoint_every: int,
        device: torch.device,
    ) -> None:
        """Save a checkpoint if one is due or if SIGTERM arrived.

        Every process must call this after every step.

        Args:
            parts: as in `resume`.
            step: number of optimiser steps done.
            last: total number of steps; a checkpoint is also saved after the last step.
            checkpoint_every: steps between two checkpoints.
            device: device of this process.

        Raises:
            InputError: weights or batch statistics are not finite; the previous checkpoint is kept.
            Interrupted: a process received SIGTERM before the last step; the state is saved.
        """
        stop = distributed.any_process(self.stop_requested, device)
        if stop or step % checkpoint_every == 0 or step == last:
            self._check_finite(parts, step)
            self.save({"step": step} | {name: part.state_dict() for name, part in parts.items()})
        if stop and step < last:
            # Wait until the first process has saved: if another one ended before, torchrun would
            # kill the first.
            distributed.any_process(True, device)
            raise Interrupted

    def _check_finite(self, parts: Mapping[str, Part], step: int) -> None:
        """Refuse weights that are not finite, so that they never replace a good checkpoint."""
        networks = [part for part in parts.values() if isinstance(part, nn.Module)]
        values = (value for network in networks for value in network.state_dict().values())
        if not all(value.isfinite().all() for value in values):
            raise InputError(f"weights are no longer finite at step {step}; {self._remedy()}")

    def _remedy(self) -> str:
        return (
            f"lower the learning rate ({self.section}.learning_rate) and run again "
            f"(the last good checkpoint is kept in {self.directory})"
        )

    def load(self) -> dict | None:
        """Read the last checkpoint (tensors on the CPU) in every process; None if there is none.

        Rows of later steps are removed from the loss history.

        Raises:
            InputError: the checkpoint is damaged.
        """
        return distributed.from_first(self._read() if self.writes else None)

    def _read(self) -> dict | None:
        if not self._checkpoint.exists():
            self._history_file.unlink(missing_ok=True)
            return None
        state = read_checkpoint(self._checkpoint, remedy="remove it, and the training starts again")
        if self._history_file.exists():
            lines = self._history_file.read_text().splitlines()
            rows = [json.loads(line) for line in lines if line.endswith("}")]
            self.history = [row for row in rows if row["step"] <= state["step"]]
        with atomic_path(self._history_file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.history))
        return state

    def save(self, state: Mapping) -> None:
        """Replace the checkpoint by `state`, a dict of tensors and plain values.

        It must contain "step", the number of optimiser steps done.
        """
        assert "step" in state
        if not self.writes:
            return
        _save(state, self._checkpoint)

    def record(self, *, step: int, loss: float, **values: float) -> None:
        """Add a row to the loss history.

        Raises:
            InputError: the loss is not finite, or the disk is full; the last checkpoint is kept.
        """
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} at step {step}; {self._remedy()}")
        if not self.writes:
            return
        row = {"step": step, "loss": loss, **values}
        self.history.append(row)
        with report_full_disk(self._history_file), open(self._history_file, "a") as file:
            file.write(json.dumps(row) + "\n")

    def request_stop(self, *_: object) -> None:
        """Let the training loop save and end after its current step (a signal handler)."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether SIGTERM has arrived; the caller then saves its state and raises `Interrupted`."""
        return self._stop.is_set()

    def write_history(self, path: str | os.PathLike, record: Mapping) -> None:
        """Write the loss history as CSV (step, loss, …), with its provenance record."""
        if not self.writes:
            return
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns or ["step", "loss"])
            writer.writeheader()
            writer.writerows(self.history)
        provenance.write_record(path, record)


def fingerprint_text(fingerprint: Mapping) -> str:
    """A fingerprint as JSON, in which each `Path` is replaced by the digest of the file's content.

    Raises:
        InputError: a file does not exist.
    """
    return json.dumps(fingerprint, sort_keys=True, default=provenance.file_digest)


@contextlib.contextmanager
def training_run(
    root: str | os.PathLike,
    fingerprint: Mapping,
    *,
    section: str,
    lock_timeout: float = LOCK_TIMEOUT,
) -> Iterator[TrainingRun]:
    """Open the directory of the training with this fingerprint, and lock it for this process.

    Within the context, SIGTERM (scancel, preemption, time limit) only sets `stop_requested`.

    Args:
        root: folder that has one directory per fingerprint.
        fingerprint: everything that the training's result depends on; see `fingerprint_text`.
        section: section of the config with the schedule, for error messages.
        lock_timeout: seconds to wait for another process with the same fingerprint.

    Raises:
        InputError: another process still runs the same training.
    """
    text = fingerprint_text(fingerprint)
    directory = Path(root) / hashlib.sha256(text.encode()).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(directory, section, writes=distributed.rank() == 0)
    lock = filelock.FileLock(directory / "lock")
    if run.writes:
        try:
            lock.acquire(timeout=lock_timeout)
        except filelock.Timeout:
            raise InputError(
                f"{directory}: another process is training here; wait until it ends, or end it"
            ) from None
        (directory / "fingerprint.json").write_text(text + "\n")
    previous = signal.signal(signal.SIGTERM, run.request_stop)
    try:
        yield run
    finally:
        signal.signal(signal.SIGTERM, previous)
        lock.release()


def publish(state: Mapping, path: str | os.PathLike) -> None:
    """Write a model file (a dict of tensors and plain values) atomically.

    Under torchrun only the first process writes.
    """
    if distributed.rank():
        return
    _save(state, path)


def _save(state: Mapping, path: str | os.PathLike) -> None:
    # Serialised in memory, because torch.save to a file would report a full disk by an error of its
    # own, and would store the temporary file's name in the file.
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
