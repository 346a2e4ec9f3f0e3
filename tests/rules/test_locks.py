"""Locks that a killed Snakemake leaves go away; those of another machine stay.

That machine's Snakemake holds its lock of the system where this one does not see it, as on file
systems that lock within one machine only: here, nobody holds it.
"""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.rules.conftest import SMALL, Workflow, write_backbone

TARGET = "results/mine/train/images/0000.parquet"
HERE, ELSEWHERE = socket.gethostname(), "another-machine"


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    (tmp_path / "config/datasets").mkdir(parents=True)
    text = "dataset: {root: photos, splits: {train: .}}\nshards: 1\n"
    (tmp_path / "config/datasets/mine.yaml").write_text(text)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 80), "red").save(tmp_path / "photos/red.png")
    write_backbone(tmp_path / "backbone.pth")
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    return Workflow(tmp_path, ["mine"], SMALL | {"shards": 1})


def test_only_locks_of_this_machine_are_removed(workflow: Workflow) -> None:
    alive = workflow.directory / ".snakemake/alive"
    lock = workflow.directory / ".snakemake/locks/0.output.lock"
    lock.write_text(TARGET)
    alive.write_text(ELSEWHERE)
    for _ in range(2):
        workflow.stale(TARGET)
        assert lock.exists()
        assert alive.read_text() == ELSEWHERE
    alive.write_text(HERE)
    workflow.stale(TARGET)
    assert not lock.exists()
    assert alive.read_text() == HERE


def test_who_makes_the_locks_signs_them(workflow: Workflow) -> None:
    """Whatever another machine, which plans at the same time, has left there."""
    alive = workflow.directory / ".snakemake/alive"
    # Snakemake stops in between, where it reads this file: a pipe, until the other one has planned.
    config = workflow.directory / "config/datasets/mine.yaml"
    content = config.rename(config.with_suffix(".txt"))
    os.mkfifo(config)
    process = subprocess.Popen(workflow.command(TARGET))
    with config.open("w") as pipe:
        assert alive.read_text() == HERE
        alive.write_text(ELSEWHERE)
        pipe.write(content.read_text())
        content.replace(config)
    assert process.wait(600) == 0
    assert (workflow.directory / TARGET).exists()
    assert alive.read_text() == HERE
