"""The lock of a killed Snakemake stays until the user removes it by `snakemake --unlock`."""

import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.rules.conftest import SMALL, Workflow, write_backbone

TARGET = "results/mine/train/images/0000.parquet"


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    (tmp_path / "config/datasets").mkdir(parents=True)
    text = "dataset: {root: photos, splits: {train: .}}\nshards: 1\n"
    (tmp_path / "config/datasets/mine.yaml").write_text(text)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 80), "red").save(tmp_path / "photos/red.png")
    write_backbone(tmp_path / "backbone.pth")
    return Workflow(tmp_path, ["mine"], SMALL | {"shards": 1})


def test_a_killed_run_goes_on_after_unlocking(workflow: Workflow) -> None:
    process = subprocess.Popen(workflow.command(TARGET))
    while not any(workflow.directory.glob(".snakemake/locks/*.lock")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()

    for _ in range(2):  # neither a failed run nor a dry run removes the lock
        done = workflow.snakemake(TARGET)
        assert done.returncode != 0
        assert "--unlock" in done.stdout
        workflow.stale(TARGET)

    workflow.unlock()
    done = workflow.snakemake(TARGET)
    assert done.returncode == 0, done.stdout
    assert (workflow.directory / TARGET).exists()
