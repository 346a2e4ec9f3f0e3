"""Locks that a killed Snakemake leaves go away; those of another machine stay.

That machine's Snakemake holds its lock of the system where this one does not see it, as on file
systems that lock within one machine only: here, nobody holds it.
"""

import socket
import subprocess
import time
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
    process = subprocess.Popen(workflow.command(TARGET))
    while not (alive.exists() and alive.read_text() == HERE):
        assert process.poll() is None
        time.sleep(0.01)
    alive.write_text(ELSEWHERE)
    assert process.wait(300) == 0
    assert (workflow.directory / TARGET).exists()
    assert alive.read_text() == HERE
