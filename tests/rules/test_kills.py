"""A run whose jobs are really killed a few times; `make kills` kills more often."""

import random
import shutil
from pathlib import Path

import pytest

from tests.rules.conftest import Workflow
from tests.rules.kills import ACTIONS, Stress

pytestmark = [pytest.mark.workflow, pytest.mark.kills]
MODEL = "results/demo/seed-0/mask_rcnn/model.pt"
# Files that the test removes: the embeddings of one shard, and files that depend on them.
UNMADE = [
    "results/demo/train/mask_embeddings/0000.parquet",
    "results/demo/seed-0/clusters",
    "results/demo/seed-0/pseudo_labels.json",
    "results/demo/seed-0/mask_rcnn",
    "checkpoints",
]


def test_a_run_that_is_killed_again_and_again_ends_the_same(
    finished: Workflow, tmp_path: Path
) -> None:
    copy = shutil.copytree(finished.directory, tmp_path / "copy")
    for name in UNMADE:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    stress = Stress(
        Workflow(copy, finished.datasets, finished.overrides),
        finished.directory,
        [MODEL],
        generator=random.Random(3),
        longest_wait=6,
    )
    stress.run(4)
    assert stress.kills
    assert copy / MODEL in stress.finished


def test_all_kinds_of_kills_are_drawn() -> None:
    generator = random.Random(3)
    drawn = set()
    for _ in range(4):
        generator.uniform(0, 6)
        drawn.add(generator.choice(ACTIONS))
        generator.random()
    assert drawn == set(ACTIONS)
