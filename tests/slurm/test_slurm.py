"""A small workflow through a real SLURM gives the same files as without SLURM."""

import collections
import contextlib
import csv
import filecmp
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch
import yaml

from tests import job_server
from tests.rules.conftest import (
    REPOSITORY,
    SMALL,
    copy_repository,
    logs,
    rules,
    write_backbone,
)
from tests.slurm.controller import Controller, missing_programs
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

pytestmark = [
    pytest.mark.timeout(3600),  # two whole runs, perhaps on a busy machine
    pytest.mark.workflow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"no SLURM here: {', '.join(missing_programs())} not installed "
        "(Debian: slurm-wlm and munge)",
    ),
]
QUEUE = "State:20,Partition:20,NumCPUs:20,MinMemory:20,TimeLimit:20,tres-per-job:20,Comment:60"
# Training steps of Mask R-CNN; the segmentation model has twice as many.
STEPS = 12
DATASET = merge(
    SMALL,
    {
        "dataset": {
            "root": "data/small",
            "adapter": "voc",
            "splits": {"train": "train"},
            "ground_truth": True,
            "classes": read_yaml(REPOSITORY / "config/datasets/demo.yaml")["dataset"]["classes"],
            "generate": {"train": 8, "val": 1, "seed": 7},
        },
        "shards": 1,
        "mask_rcnn": {"iterations": STEPS},
        "segmentation": {"epochs": STEPS},  # each epoch has two steps
        "crf": {"rounds": 0},
        "evaluation": {"linear_probe": {"enabled": False}},
    },
)
SHORTENED = ("train_mask_rcnn", 2)  # rule and attempt whose time limit the test shortens
RUNTIME = {"device": "auto", "threads": 1, "gpus": 2, "batch_size": 8, "checkpoint_every": STEPS}
GPU_RULES = {
    "extract_features": 1,
    "embed_masks": 1,
    "train_mask_rcnn": 2,
    "predict_candidates": 1,
    "train_segmentation": 2,
    "predict_segmentation": 1,
    "refine_predictions": 1,
}


class Runs(NamedTuple):
    """The folders of both runs, all jobs of SLURM, and observations during the run with SLURM."""

    cluster: Path
    here: Path
    jobs: list[dict[str, str]]
    queue: str
    checkpoints: list[int]  # steps of the last checkpoints of trainings that SLURM ended
    shortened: int  # time limit of the second attempt of Mask R-CNN, in minutes


@pytest.fixture(scope="module")
def runs(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Run the workflow with and without SLURM.

    With SLURM, the first attempt to train Mask R-CNN is cancelled, and the second one comes near
    its time limit. The training of the segmentation model is preempted by another job.
    """
    here, cluster = (checkout(tmp_path_factory.mktemp(name)) for name in ("here", "cluster"))
    profile = cluster / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text().replace("# slurm-partition-config", "slurm-partition-config")
    profile.write_text(text + "slurm-init-seconds-before-status-checks: 2\n")
    process = snakemake(cluster, "--profile", "slurm", **controller.environment)
    # Both runs go on at the same time, because the run with SLURM mostly waits.
    options = ["--profile", "profiles/local", "--resources", "gpu=2", "--cores", "2"]
    local = snakemake(here, *options, python=job_server.python())
    checkpoints = []

    def training(rule: str, name: str, after: int = 0) -> str:
        """Wait until a training has done more than `after` steps; gives the number of its job."""
        histories = f"checkpoints/*/*/{name}/*/history.jsonl"

        def found() -> list[str]:
            assert process.poll() is None, printed(cluster) + logs(cluster) + controller.logs()
            steps = [len(path.read_text().splitlines()) for path in cluster.glob(histories)]
            return running(controller, rule) if max(steps, default=0) > after else []

        (job,) = wait_for(found)
        return job

    def wait_for_end_of(job: str, rule: str, name: str) -> None:
        wait_for(lambda: job not in running(controller, rule))
        (file,) = cluster.glob(f"checkpoints/*/*/{name}/*/last.pt")
        checkpoints.append(torch.load(file, weights_only=True)["step"])

    try:
        # A training is suspended until it is asked to end; otherwise it would be finished by then.
        job = training("train_mask_rcnn", "mask_rcnn")
        with suspended("train_mask_rcnn", cluster) as processes:
            queue = controller.run("squeue", "--noheader", f"--Format={QUEUE}")
            controller.run("scancel", job)
            wait_for(lambda: any(map(was_sent_sigterm, processes)))
        wait_for_end_of(job, "train_mask_rcnn", "mask_rcnn")

        job = training("train_mask_rcnn", "mask_rcnn", after=checkpoints[0])
        with suspended("train_mask_rcnn", cluster) as processes:
            shortened = time_limit_that_comes_near(controller, job)
            controller.run("scontrol", "update", f"JobId={job}", f"TimeLimit={shortened}")
            wait_for(lambda: any(map(was_sent_sigterm, processes)))
        wait_for_end_of(job, "train_mask_rcnn", "mask_rcnn")

        job = training("train_segmentation", "segmentation")
        with suspended("train_segmentation", cluster) as processes:
            controller.run(
                "sbatch", "--partition=urgent", "--gpus=2", "--wrap=true", "--output=/dev/null"
            )
            wait_for(lambda: any(map(was_sent_sigterm, processes)))
        wait_for_end_of(job, "train_segmentation", "segmentation")
        # SLURM would let the preempted job wait for two minutes before it starts again.
        controller.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        process.wait(timeout=1500)
        local.wait(timeout=1500)
    finally:
        for each in (process, local):
            each.kill()
            each.wait()
    assert process.returncode == 0, printed(cluster) + logs(cluster) + controller.logs()
    assert local.returncode == 0, printed(here) + logs(here)
    return Runs(cluster, here, workflow_jobs(controller), queue, checkpoints, shortened)


def time_limit_that_comes_near(controller: Controller, job: str) -> int:
    """A time limit in minutes that ends a running job in one or two minutes.

    SLURM sends SIGTERM at once, because the profile asks for it two minutes before the limit.
    """
    (elapsed,) = [each["RunTime"] for each in controller.jobs() if each["JobId"] == job]
    return minutes(elapsed) + 2


@contextlib.contextmanager
def suspended(program: str, folder: Path) -> Iterator[list[psutil.Process]]:
    """Suspend the processes of a program that run in a folder, until the block ends."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if f"workflow_scripts.{program}" in process.cmdline() and process.cwd() == str(folder):
                process.suspend()
                processes.append(process)
    try:
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def was_sent_sigterm(process: psutil.Process) -> bool:
    """Whether a suspended process was sent SIGTERM; SLURM may also have resumed and ended it."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return True
    pending = int(re.search(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(pending & 1 << (signal.SIGTERM - 1))


def checkout(folder: Path) -> Path:
    """Copy the repository to a folder, with a small dataset as the only one of its config."""
    copy_repository(folder)
    write_backbone(folder / "backbone.pth")
    (folder / "config" / "datasets" / "small.yaml").write_text(yaml.safe_dump(DATASET))
    config = read_yaml(folder / "config" / "default.yaml")
    changed = {**config, "datasets": ["small"], "runtime": RUNTIME}
    (folder / "config" / "default.yaml").write_text(yaml.safe_dump(changed))
    return folder


def snakemake(
    folder: Path,
    *arguments: str,
    target: str | None = "all",
    python: Path | None = None,
    **environment: str,
) -> subprocess.Popen:
    """Start `snakemake … TARGET` in a folder, as a user would do it there.

    Args:
        python: the interpreter that runs jobs on this machine, see `job_server`; None for this one.
    """
    variables = os.environ | environment
    # The GPUs of this SLURM are not real, so both runs must compute on the CPU.
    variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables["PATH"]])
    command = ["snakemake"] if python is None else job_server.snakemake(python)
    with open(folder / "printed.txt", "w") as output:
        return subprocess.Popen(
            [*command, *arguments, *filter(None, [target])],
            cwd=folder,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def printed(folder: Path) -> str:
    """The end of Snakemake's output in a folder."""
    return (folder / "printed.txt").read_text()[-4000:]


def wait_for(condition, seconds: float = 1500):
    """Call `condition` until it returns a true value, and return this value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return value


def rule_of(job: Mapping[str, str]) -> str:
    """The rule of a job, which Snakemake's plugin writes into the job's comment."""
    return re.match(r"rule_(\w+?)(_wildcards_.*)?$", job["Comment"])[1]


def running(controller: Controller, rule: str) -> list[str]:
    """Numbers of the jobs of a rule that run or are about to end."""
    states = ("RUNNING", "COMPLETING")
    jobs = [job for job in workflow_jobs(controller) if job["JobState"] in states]
    return [job["JobId"] for job in jobs if rule_of(job) == rule]


def workflow_jobs(controller: Controller) -> list[dict[str, str]]:
    """All jobs of the workflow, without the urgent job that preempts a training."""
    return [job for job in controller.jobs() if job["Partition"] != "urgent"]


def promised() -> dict[str, dict[str, int]]:
    """Rule → threads, memory (MB), runtime (min) and GPUs that the text of the rule states."""
    names = {"attempts": int, "RUNTIME": RUNTIME, "GPUS": 1}
    names |= {"TRAINING_GPUS": RUNTIME["gpus"], "TRAINING_PROCESSES": RUNTIME["gpus"]}
    patterns = {
        "threads": r"threads: (.+)",
        "mem_mb": r"mem_mb=(.+),",
        "runtime": r"runtime=(.+),",
        "gpu": r"gpu=(.+),",
    }
    found = {}
    for name, text in rules().items():
        values = {key: re.search(pattern, text) for key, pattern in patterns.items()}
        found[name] = {k: eval(v[1], names) if v else 0 for k, v in values.items()}
    return found


def minutes(text: str) -> int:
    """The minutes of a time limit of SLURM, [DAYS-]HH:MM:SS."""
    days, _, clock = text.rpartition("-")
    hours, rest, _ = map(int, clock.split(":"))
    return 1440 * int(days or 0) + 60 * hours + rest


def megabytes(text: str) -> int:
    """The MB of a size of SLURM, which writes round sizes in GB."""
    return int(float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]])


def test_every_job_has_the_resources_that_its_rule_promises(runs: Runs) -> None:
    stated = promised()
    attempts = collections.Counter()
    for job in runs.jobs:
        rule = rule_of(job)
        attempts[job["Comment"]] += 1
        attempt = attempts[job["Comment"]]
        assert {
            "threads": int(job["CPUs/Task"]),
            "mem_mb": megabytes(job["MinMemoryNode"]),
            "runtime": minutes(job["TimeLimit"]),
            "gpu": int(job.get("TresPerJob", "gres:gpu:0").removeprefix("gres:gpu:")),
        } == stated[rule] | {
            "mem_mb": attempt * stated[rule]["mem_mb"],
            "runtime": runs.shortened
            if (rule, attempt) == SHORTENED
            else attempt * stated[rule]["runtime"],
        }, rule
        assert job["NumNodes"] == job["NumTasks"] == "1"
    # Every rule of the run without SLURM had a job here, so none ran on the login node.
    plan = re.findall(r"^(\w+) +\d+$", (runs.here / "printed.txt").read_text(), re.MULTILINE)
    assert {rule_of(job) for job in runs.jobs} == set(plan) - {"all", "total"}
    # All jobs succeeded at the first attempt, except the training that was ended twice.
    again = {rule_of({"Comment": comment}): n for comment, n in attempts.items() if n > 1}
    assert again == {"train_mask_rcnn": 3}


def test_rules_with_a_gpu_are_those_that_use_one(runs: Runs) -> None:
    found = {rule_of(job): job for job in runs.jobs if "TresPerJob" in job}
    asked = {rule: int(job["TresPerJob"].rpartition(":")[2]) for rule, job in found.items()}
    assert asked == GPU_RULES


def test_the_partition_file_sends_jobs_with_a_gpu_elsewhere(runs: Runs) -> None:
    for job in runs.jobs:
        assert job["Partition"] == ("gpu" if rule_of(job) in GPU_RULES else "cpu")


def test_the_queue_shows_the_training_with_its_resources(runs: Runs) -> None:
    (line,) = [line for line in runs.queue.splitlines() if "rule_train_mask_rcnn" in line]
    assert line.split()[:6] == ["RUNNING", "gpu", "2", "32000M", "1-00:00:00", "gres:gpu:2"]


def test_a_training_that_was_ended_goes_on_in_the_next_attempt(runs: Runs) -> None:
    states = [job["JobState"] for job in runs.jobs if rule_of(job) == "train_mask_rcnn"]
    assert states[::2] == ["CANCELLED", "COMPLETED"]
    assert states[1] == "FAILED"  # it ended after SIGTERM, before its time limit
    assert 0 < runs.checkpoints[0] < runs.checkpoints[1] < STEPS
    assert steps(runs.cluster, "mask_rcnn") == list(range(1, STEPS + 1))


def test_a_training_that_made_way_goes_on_in_the_same_job(runs: Runs) -> None:
    (job,) = [job for job in runs.jobs if rule_of(job) == "train_segmentation"]
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert 0 < runs.checkpoints[2] < 2 * STEPS
    assert steps(runs.cluster, "segmentation") == list(range(1, 2 * STEPS + 1))


def steps(folder: Path, name: str) -> list[int]:
    """The steps in the loss history of a finished training."""
    (path,) = folder.glob(f"results/small/seed-0/**/{name}/history.csv")
    with open(path, newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_results_are_those_of_a_run_without_slurm(runs: Runs) -> None:
    names = [
        sorted(path.relative_to(folder) for path in folder.rglob("results/**/*") if path.is_file())
        for folder in (runs.here, runs.cluster)
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 30
    _, different, failed = filecmp.cmpfiles(runs.here, runs.cluster, names[0], shallow=False)
    # Only the report differs, because it shows how long each stage took.
    assert [str(path) for path in different + failed] == ["results/small/report.html"]


@pytest.mark.parametrize("profile", ["slurm", "profiles/local"])
def test_neither_profile_would_do_anything_again(runs: Runs, controller, profile) -> None:
    arguments = ["--profile", profile, "--dry-run", "--cores", "1"]
    with snakemake(runs.cluster, *arguments, **controller.environment) as process:
        assert process.wait(timeout=300) == 0
    assert "Nothing to be done" in printed(runs.cluster)
