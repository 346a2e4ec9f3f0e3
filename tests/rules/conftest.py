"""One small run of the whole workflow, which the tests of this folder share."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
import yaml
from filelock import FileLock

from tests import job_server
from tests.rules import forked_snakemake
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.rule_texts import rule_texts

BACKBONE = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
# Sizes are as small as every stage allows, because these tests do not check the quality of results.
SMALL = {
    "seeds": [0],
    "shards": 2,
    "features": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": BACKBONE,
        "weights": "backbone.pth",
        "shorter_side": 64,
    },
    "masks": {"center_keys": True, "source_component": False, "per_image": 2, "top_k": 0.2},
    "embedding": {"backbone": None, "weights": None},
    "clustering": {"clusters": 6, "redo": 1, "iterations": 10},
    "mask_rcnn": {
        "depth": 10,
        "weights": None,
        "frozen_stages": 0,
        "fpn": False,
        "norm": "group",
        "iterations": 4,
        "batch_size": 2,
        "train_sides": [64],
        "anchor_sizes": [16, 32, 64],
        "proposals": 50,
        "sampled_proposals": 32,
        "learning_rate_steps": [3],
        "warmup_iterations": 1,
    },
    "candidates": {"shorter_side": 64, "proposals": 20, "per_image": 5},
    "segmentation": {
        "depth": 10,
        "weights": None,
        "frozen_stages": 0,
        "output_stride": 16,
        "epochs": 1,
        "batch_size": 4,
        "crop_size": 64,
        "head_width": 16,
        "atrous_rates": [1, 2],
    },
    "crf": {"rounds": 1},
    "evaluation": {"linear_probe": {"enabled": True, "epochs": 1, "batch_size": 4}},
    "report": {"examples": 2, "crops": 3},
}


class Workflow:
    """A working directory in which the workflow of this repository runs."""

    def __init__(self, directory: Path, datasets: list[str], overrides: dict) -> None:
        self.directory = directory
        self.datasets = datasets
        self.overrides = overrides

    def command(
        self,
        *arguments: str,
        overrides: dict | None = None,
        runtime: dict | None = None,
        repository: Path = REPOSITORY,
    ) -> list[str]:
        """The command line of Snakemake with the local profile."""
        config = {
            "datasets": self.datasets,
            "overrides": self.overrides if overrides is None else overrides,
            "runtime": {"device": "cpu", "threads": 1, **(runtime or {})},
        }
        path = self.directory / "trial.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "snakemake", "--snakefile", repository / "Snakefile"]
        command += ["--directory", self.directory, "--configfile", path]
        command += ["--profile", repository / "profiles" / "local", "--cores", "2", *arguments]
        return list(map(str, command))

    def snakemake(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Run `command`, with jobs that `job_server` runs; the result's stdout has all output."""
        arguments = self.command(*arguments, **options)[3:]
        python = job_server.python()
        if "repository" in options:
            return subprocess.run(
                job_server.snakemake(python) + arguments,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=840,
            )
        printed = self.directory / "printed.txt"
        status = forked_snakemake.run(arguments, printed, python=python, timeout=840)
        return subprocess.CompletedProcess(arguments, status, printed.read_text())

    def unlock(self) -> None:
        """Remove the lock of a killed Snakemake by `--unlock`, as Snakemake's message says."""
        done = self.snakemake("--unlock")
        assert done.returncode == 0, done.stdout

    def plan(self, *arguments: str, **options) -> str:
        """The output of a dry run of Snakemake."""
        command = self.command(*arguments, "--dry-run", "--quiet", "host", **options)
        printed = self.directory / "plan.txt"
        status = forked_snakemake.run(command[3:], printed)
        assert status == 0, printed.read_text()
        return printed.read_text()

    def stale(self, *arguments: str, **options) -> dict[str, int]:
        """The jobs that Snakemake would run: rule → number of jobs."""
        text = self.plan(*arguments, **options)
        if "Nothing to be done" in text:
            return {}
        table = text.split("Job stats:")[1].split("\n\n")[0]
        found = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE))
        return {rule: int(n) for rule, n in found.items() if rule not in ("total", "all", "job")}


def copy_repository(target: Path) -> Path:
    """Copy the files of this checkout, with uncommitted edits, to a folder that tests may edit."""
    files = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for source in (REPOSITORY / name for name in files):
        copy = target / source.relative_to(REPOSITORY)
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy, follow_symlinks=False)
    return target


def rules() -> dict[str, str]:
    """Name of a rule → its text, for all rules that run a command."""
    return {name: text for name, text in rule_texts(REPOSITORY).items() if "    shell:\n" in text}


def write_backbone(path: Path) -> None:
    """Write a vision transformer with random weights; its masks are meaningless, but not empty."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **BACKBONE)
    torch.save(model.state_dict(), path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A tiny demo dataset after `snakemake all`; it is made once, and each worker copies it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    original, complete = shared / "finished", shared / "finished.complete"
    scenes = {"generate": {"train": 14, "val": 6, "seed": 7}}
    # The splits differ in their number of shards, so that a rule fails if it confuses the splits.
    shards = {"train": 2, "val": 1}
    overrides = {**SMALL, "dataset": scenes, "shards": shards}
    with FileLock(shared / "finished.lock"):
        if not complete.exists():
            shutil.rmtree(original, ignore_errors=True)
            original.mkdir()
            write_backbone(original / "backbone.pth")
            done = Workflow(original, ["demo"], overrides).snakemake("all")
            assert done.returncode == 0, done.stdout[-6000:] + logs(original)
            complete.touch()
    directory = shutil.copytree(original, tmp_path_factory.mktemp("workflow") / "finished")
    return Workflow(directory, ["demo"], overrides)


@pytest.fixture(scope="session")
def successors(finished: Workflow) -> dict[str, set[str]]:
    """Rule → rules that read its output, in the plan of `all`."""
    done = finished.snakemake("--forceall", "--rulegraph", "dot", "--quiet", "all")
    assert done.returncode == 0, done.stdout
    names = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)', done.stdout, re.MULTILINE))
    found: dict[str, set[str]] = {name: set() for name in names.values()}
    for before, after in re.findall(r"^\s*(\d+) -> (\d+)$", done.stdout, re.MULTILINE):
        found[names[before]].add(names[after])
    return found


def following(rules: set[str], successors: Mapping[str, set[str]]) -> set[str]:
    """These rules and all rules that use their output, directly or by other rules."""
    found: set[str] = set()
    waiting = [rule for rule in rules if rule in successors]
    while waiting:
        rule = waiting.pop()
        if rule not in found:
            found.add(rule)
            waiting += successors[rule]
    return found - {"all"}


def logs(directory: Path) -> str:
    """The end of every job's log, for the message of a failed test."""
    paths = sorted(directory.glob("logs/**/*.log"))
    return "\n".join(f"{path}: {path.read_text()[-600:]}" for path in paths)
