"""Kill jobs and Snakemake at random moments, run again until all is done, and compare.

    python -m tests.rules.kills --kills 50 --seed 0

The demo, tiny, runs once undisturbed. Then it runs again in another folder, where jobs are killed
(SIGKILL), asked to end (SIGTERM, as scancel, preemption and time limits do), and Snakemake is
killed, at random moments, until the number of kills is reached. After a kill of Snakemake its lock
is removed by `snakemake --unlock`, as its users would. After each end every file must be that of
the undisturbed run, byte for byte, and none that was finished may have been made again.
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
# Kills of one stage: the slow ones at the beginning would take them all.
MOST = 5
SCENES = {"dataset": {"generate": {"train": 14, "val": 6, "seed": 7}}}
# Trainings long enough to be killed between two checkpoints.
LONGER = {
    "mask_rcnn": {"iterations": 30, "learning_rate_steps": [20]},
    "segmentation": {"epochs": 6},
}
RUNTIME = {"checkpoint_every": 3}
# It shows how long jobs took.
DIFFERS = {"report.html"}


class Stress:
    """A run that is disturbed, beside an undisturbed one of the same settings.

    Args:
        workflow: in whose folder things are killed.
        reference: folder of the finished, undisturbed run.
        targets: what to make.
        longest_wait: seconds between two kills, at most.
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
        """Run and kill until `kills` things are killed, then to the end.

        Where the end comes earlier, there were fewer.
        """
        for _ in range(attempts):
            if self._attempt(kills):
                return
        raise AssertionError(f"not done after {attempts} attempts")

    def _attempt(self, kills: int) -> bool:
        """One call of Snakemake; whether all is done."""
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
        # No job outlives Snakemake, to write over what the next run makes.
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
        """Whatever is there is whole and right, and what was finished is still the same file."""
        for path in self._outputs():
            if path.name not in DIFFERS:
                relative = path.relative_to(self.workflow.directory)
                same = path.read_bytes() == (self.reference / relative).read_bytes()
                assert same, f"{relative} differs from that of the undisturbed run"
        for path, identity in self.finished.items():
            assert path.exists(), f"{path} was finished and is gone"
            assert _identity(path) == identity, f"{path} was finished and was made again"
        self.finished = self._finished()

    def _finished(self) -> dict[Path, tuple[int, int]]:
        """The files of jobs that Snakemake has seen end well."""
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
        """Trainings that began since then say in their log at which step."""
        folder = self.workflow.directory
        opened = since(started, folder.glob("checkpoints/**/fingerprint.json"))
        logs = since(started, folder.glob("logs/**/model.log"))
        for stage in {log.parent.name for log in logs}:
            # Rounds of one training begin one after the other; the last one may not have come to
            # its log yet.
            runs = [path.parent for path in opened if path.parents[1].name == stage]
            of_stage = [log for log in logs if log.parent.name == stage]
            for run, log in zip(runs, of_stage, strict=False):
                first = re.search(r"\| *(\d+)/(\d+) \[", log.read_text())
                if first and saved.get(run, 0) > 0:
                    assert int(first[1]) >= saved[run], f"{log}: not from step {saved[run]} on"
                    self.resumed.append(f"{stage} from step {first[1]} of {first[2]}")
                    print(f"   resumed {self.resumed[-1]}", flush=True)


def since(moment: float, paths: Iterable[Path]) -> list[Path]:
    """Files that were written later than a moment, in seconds since 1970, the earliest first."""
    changed = {path: path.stat().st_mtime for path in paths}
    return sorted((path for path in changed if changed[path] > moment), key=changed.get)


def _identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def running_jobs(snakemake: subprocess.Popen) -> list[psutil.Process]:
    """The programs of the workflow that run now, without their worker processes."""
    jobs = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(snakemake.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(word.startswith("workflow_scripts.") for word in child.cmdline()[1:3]):
                    jobs.append(child)
    return sorted(jobs, key=lambda job: job.pid)


def main(argv: list[str] | None = None) -> int:
    """Make the undisturbed run, then disturb others until the number of kills is reached."""
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
