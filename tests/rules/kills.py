"""Kill jobs and Snakemake at random, run the workflow again until it is done, compare the files.

    python -m tests.rules.kills --kills 50 --seed 0

A tiny demo runs once undisturbed. Then it runs in another folder. There, at random moments, jobs
are killed (SIGKILL) or asked to end (SIGTERM, as scancel, preemption and time limits do), and
Snakemake is killed, until the number of kills is reached. The lock of a killed Snakemake is removed
by `snakemake --unlock`, as a user would do it. Whenever Snakemake has ended, every file must be
equal to that of the undisturbed run, byte for byte, and no finished file may have been made again.
"""

import argparse
import base64
import contextlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import torch

from tests.rules.conftest import SMALL, Workflow, logs, write_backbone
from workflow_scripts.maskdistill.settings.layers import merge

ACTIONS = ("kill", "terminate", "kill Snakemake")
# Largest number of kills in one stage; otherwise the slow first stages would get all of them.
MOST = 5
SCENES = {"dataset": {"generate": {"train": 14, "val": 6, "seed": 7}}}
# Trainings long enough to be killed between two checkpoints.
LONGER = {
    "mask_rcnn": {"iterations": 30, "learning_rate_steps": [20]},
    "segmentation": {"epochs": 6},
}
RUNTIME = {"checkpoint_every": 3}
# The report shows how long jobs took, so it differs between two runs.
DIFFERS = {"report.html"}


class Stress:
    """A run whose jobs are killed, and an undisturbed run with the same settings.

    Args:
        workflow: the run whose jobs are killed.
        reference: folder of the finished, undisturbed run.
        targets: targets for Snakemake.
        longest_wait: largest number of seconds between two kills.
    """

    def __init__(
        self,
        workflow: Workflow,
        reference: Path,
        targets: Sequence[str],
        *,
        generator: random.Random,
        longest_wait: float,
    ) -> None:
        self.workflow, self.reference, self.targets = workflow, reference, targets
        self.generator, self.longest_wait = generator, longest_wait
        self.kills: list[str] = []
        self.resumed: list[str] = []
        self.finished = self._finished()

    def run(self, kills: int, *, attempts: int = 100) -> None:
        """Start runs and kill jobs or Snakemake `kills` times; then let the run finish.

        If the run finishes earlier, there are fewer kills.
        """
        for _ in range(attempts):
            if self._attempt(kills):
                return
        raise AssertionError(f"not done after {attempts} attempts")

    def _attempt(self, kills: int) -> bool:
        """Call Snakemake once, with kills; returns whether the run is finished."""
        before, saved, started = len(self.kills), self._saved_steps(), time.time()
        printed = self.workflow.directory / "printed.txt"
        with open(printed, "w") as file:
            command = self.workflow.command("--", *self.targets, runtime=RUNTIME)
            snakemake = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        jobs: set[psutil.Process] = set()
        try:
            while snakemake.poll() is None and len(self.kills) < kills:
                if running := running_jobs(snakemake):
                    jobs.update(running)
                    time.sleep(self.generator.uniform(0, self.longest_wait))
                    jobs.update(running_jobs(snakemake))
                    self._kill(snakemake)
                time.sleep(0.1)
            snakemake.wait(900)
        finally:
            snakemake.kill()
        # A job that runs on after Snakemake's end could overwrite files of the next run.
        _, alive = psutil.wait_procs(jobs, timeout=300)
        assert not alive, alive
        self.check_files()
        self._check_resumed(saved, started)
        failed = snakemake.returncode != 0
        if snakemake.returncode == -signal.SIGKILL:
            self.workflow.unlock()
        assert len(self.kills) > before or not failed, printed.read_text()[-6000:] + logs(
            self.workflow.directory
        )
        return not failed

    def _kill(self, snakemake: subprocess.Popen) -> None:
        action, number = self.generator.choice(ACTIONS), self.generator.random()
        if snakemake.poll() is not None or not (jobs := running_jobs(snakemake)):
            return
        job = jobs[int(number * len(jobs))]
        with contextlib.suppress(psutil.NoSuchProcess):
            during = job.cmdline()[2].removeprefix("workflow_scripts.")
            if sum(kill.endswith(during) for kill in self.kills) >= MOST:
                return
            if action == "kill Snakemake":
                snakemake.kill()
                snakemake.wait()
            else:
                job.send_signal(signal.SIGKILL if action == "kill" else signal.SIGTERM)
            self.kills.append(f"{action}, {during}")
            print(f"{len(self.kills)}: {self.kills[-1]}", flush=True)

    def check_files(self) -> None:
        """Check that all files are complete and right, and that finished ones were not replaced."""
        for path in self._outputs():
            if path.name not in DIFFERS:
                relative = path.relative_to(self.workflow.directory)
                same = path.read_bytes() == (self.reference / relative).read_bytes()
                assert same, f"{relative} differs from the file of the undisturbed run"
        for path, identity in self.finished.items():
            assert path.exists(), f"{path} was finished, but does not exist any more"
            assert _identity(path) == identity, f"{path} was finished, but was made again"
        self.finished = self._finished()

    def _finished(self) -> dict[Path, tuple[int, int]]:
        """The output files of jobs that succeeded, as far as Snakemake knows."""
        incomplete = [
            self.workflow.directory / base64.urlsafe_b64decode(path.name).decode()
            for path in (self.workflow.directory / ".snakemake/incomplete").glob("*")
            if path.name != "migration_underway"
        ]
        return {
            path: _identity(path)
            for path in self._outputs()
            if path not in incomplete and not set(path.parents) & set(incomplete)
        }

    def _outputs(self) -> list[Path]:
        results = self.workflow.directory / "results"
        return [
            path
            for path in sorted(results.rglob("*"))
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(results).parts)
        ]

    def _saved_steps(self) -> dict[Path, int]:
        """Folder of a training → the step of its last checkpoint."""
        return {
            path.parent: torch.load(path, weights_only=True)["step"]
            for path in self.workflow.directory.glob("checkpoints/**/last.pt")
        }

    def _check_resumed(self, saved: dict[Path, int], started: float) -> None:
        """Check that the trainings that began after `started` continued from their checkpoints."""
        folder = self.workflow.directory
        opened = since(started, folder.glob("checkpoints/**/fingerprint.json"))
        logs = since(started, folder.glob("logs/**/model.log"))
        for stage in {log.parent.name for log in logs}:
            # The rounds of a training begin one after the other, so logs and checkpoints are in the
            # same order. The last round may have no log yet.
            runs = [path.parent for path in opened if path.parents[1].name == stage]
            of_stage = [log for log in logs if log.parent.name == stage]
            for run, log in zip(runs, of_stage, strict=False):
                first = re.search(r"\| *(\d+)/(\d+) \[", log.read_text())
                if first and saved.get(run, 0) > 0:
                    assert int(first[1]) >= saved[run], f"{log}: began before step {saved[run]}"
                    self.resumed.append(f"{stage} from step {first[1]} of {first[2]}")
                    print(f"   resumed {self.resumed[-1]}", flush=True)


def since(moment: float, paths: Iterable[Path]) -> list[Path]:
    """Files that were written after `moment` (seconds since 1970), the earliest first."""
    changed = {path: path.stat().st_mtime for path in paths}
    return sorted((path for path in changed if changed[path] > moment), key=changed.get)


def _identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def running_jobs(snakemake: subprocess.Popen) -> list[psutil.Process]:
    """The workflow's programs that Snakemake is running, without their own child processes."""
    jobs = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(snakemake.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word.startswith("workflow_scripts.") for word in child.cmdline()[1:3]):
                    jobs.append(child)
    return sorted(jobs, key=lambda job: job.pid)


def main(argv: list[str] | None = None) -> int:
    """Make the undisturbed run, then other runs until the number of kills is reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--longest-wait", type=float, default=8, help="seconds between two")
    parser.add_argument("--shards", type=int, default=2, help="of every stage")
    parser.add_argument("--targets", nargs="+", default=["all"], help="what to make")
    parser.add_argument("--directory", type=Path, help="kept, and gone on with")
    options = parser.parse_args(argv)

    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        base = options.directory or Path(temporary)
        reference = prepared(base / "undisturbed", shards=options.shards)
        print("undisturbed run", flush=True)
        command = reference.command("--quiet", "all", "--", *options.targets, runtime=RUNTIME)
        subprocess.run(command, check=True)
        kills: list[str] = []
        resumed: list[str] = []
        while len(kills) < options.kills:
            shutil.rmtree(base / "disturbed", ignore_errors=True)
            stress = Stress(
                prepared(base / "disturbed", shards=options.shards),
                reference.directory,
                options.targets,
                generator=generator,
                longest_wait=options.longest_wait,
            )
            stress.run(options.kills - len(kills))
            kills += stress.kills
            resumed += stress.resumed
            made = {path.relative_to(stress.workflow.directory) for path in stress.finished}
            expected = Stress(
                reference, reference.directory, [], generator=generator, longest_wait=0
            ).finished
            assert made == {path.relative_to(reference.directory) for path in expected}
            assert stress.workflow.stale(*options.targets, runtime=RUNTIME) == {}
            print(f"complete after {len(stress.kills)} kills", flush=True)
    for what, number in sorted(Counter(kills).items()):
        print(f"{number:4d}  {what}")
    for what, number in sorted(Counter(resumed).items()):
        print(f"{number:4d}  resumed {what}")
    return 0


def prepared(directory: Path, *, shards: int) -> Workflow:
    """A new folder in which the tiny demo can run."""
    directory.mkdir(parents=True, exist_ok=True)
    write_backbone(directory / "backbone.pth")
    return Workflow(directory, ["demo"], merge(SMALL, SCENES, LONGER, {"shards": shards}))


if __name__ == "__main__":
    sys.exit(main())
