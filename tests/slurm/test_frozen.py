"""Edits while jobs wait, in SLURM's queue or on this machine, do not change these jobs."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests import job_server
from tests.rules.conftest import logs
from tests.slurm.controller import Controller, missing_programs
from tests.slurm.test_slurm import checkout, printed, snakemake, wait_for
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.workflow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"no SLURM here: {', '.join(missing_programs())} not installed "
        "(Debian: slurm-wlm and munge)",
    ),
]
SHARDS = 2
HERE = ["--profile", "profiles/local", "--resources", "gpu=2", "--cores", "1"]
SLURM = ["--profile", "slurm", "--jobs", "1"]
MASKS = [f"results/small/train/masks/{shard:04d}.parquet" for shard in range(SHARDS)]


class Edit(NamedTuple):
    """A replacement in a file, and the words of the error that a job then prints."""

    path: str
    old: str
    new: str
    words: str


LIBRARY = Edit(
    "workflow_scripts/maskdistill/discovery/affinity.py",
    "to_source > 0]",
    "to_source > 0.0]",
    "the code of make_masks has changed since this run of the workflow was started",
)
RULES = Edit(
    "rules/masks.smk",
    "--images {input.images}",
    "--images  {input.images}",
    "the rules have changed since this run was started",
)


@pytest.fixture(scope="module")
def with_features(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the features of a dataset of two shards are made."""
    folder = checkout(tmp_path_factory.mktemp("features"))
    profile = folder / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text().replace("# slurm-partition-config", "slurm-partition-config")
    profile.write_text(text + "slurm-init-seconds-before-status-checks: 2\n")
    set_top_k(folder, 0.1)
    features = [path.replace("masks", "features") for path in MASKS]
    assert run(controller, folder, targets=features) == 0, printed(folder) + logs(folder)
    return folder


@pytest.fixture
def folder(with_features: Path, tmp_path: Path) -> Path:
    """A copy of the folder `with_features`."""
    return shutil.copytree(with_features, tmp_path / "copy", symlinks=True)


def set_top_k(folder: Path, value: float) -> None:
    """Set `masks.top_k` in the dataset's config."""
    path = folder / "config" / "datasets" / "small.yaml"
    changed = merge(read_yaml(path), {"masks": {"top_k": value}, "shards": SHARDS})
    path.write_text(yaml.safe_dump(changed))


def run(
    controller: Controller,
    folder: Path,
    *options: str,
    profile: list[str] = HERE,
    edit: Callable[[], None] | None = None,
    targets: list[str] = MASKS,
) -> int:
    """Run Snakemake and return its exit status; `edit` is called after the first shard of masks."""
    arguments = [*profile, *options, *targets]
    python = job_server.python() if profile == HERE else None
    with snakemake(
        folder, *arguments, target=None, python=python, **controller.environment
    ) as process:
        if edit is not None:
            wait_for(lambda: made(folder) or process.poll() is not None)
            assert made(folder) == 1, printed(folder) + logs(folder)
            edit()
        return process.wait(timeout=1500)


def made(folder: Path) -> int:
    """Number of shards of masks that exist."""
    return sum((folder / path).exists() for path in MASKS)


def stale(controller: Controller, folder: Path) -> set[str]:
    """The rules that Snakemake would run."""
    assert run(controller, folder, "--dry-run", "--quiet=host") == 0, printed(folder)
    text = (folder / "printed.txt").read_text()
    if "Nothing to be done" in text:
        return set()
    lines = text.split("Job stats:")[1].split("\n\n")[0].splitlines()
    return {line.split()[0] for line in lines[3:]} - {"total"}


def top_k(folder: Path) -> list[float]:
    """`masks.top_k` in the provenance of each shard of masks."""
    return [provenance.read(folder / path)["settings"]["masks"]["top_k"] for path in MASKS]


def verify(folder: Path) -> subprocess.CompletedProcess:
    """Run the program `verify` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "workflow_scripts.verify", "small"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("profile", [SLURM, HERE], ids=["slurm", "local"])
def test_a_config_that_is_edited_while_jobs_wait(
    controller: Controller, folder: Path, profile: list[str]
) -> None:
    done = run(controller, folder, profile=profile, edit=lambda: set_top_k(folder, 0.2))
    assert done == 0, printed(folder) + logs(folder) + controller.logs()
    # Both shards have the old value, in their provenance and in Snakemake's records.
    assert top_k(folder) == [0.1] * SHARDS
    assert stale(controller, folder) == {"make_masks"}
    assert verify(folder).stdout.count("masks.top_k: 0.1 → 0.2") == SHARDS
    set_top_k(folder, 0.1)
    assert stale(controller, folder) == set()
    assert verify(folder).returncode == 0

    set_top_k(folder, 0.2)
    assert run(controller, folder) == 0
    assert top_k(folder) == [0.2] * SHARDS
    assert stale(controller, folder) == set()
    set_top_k(folder, 0.1)
    assert stale(controller, folder) == {"make_masks"}


@pytest.mark.parametrize(
    ("profile", "edited"),
    [(SLURM, LIBRARY), (SLURM, RULES), (HERE, LIBRARY)],
    ids=["library-slurm", "rules-slurm", "library-local"],
)
def test_code_that_is_edited_while_jobs_wait(
    controller: Controller, folder: Path, profile: list[str], edited: Edit
) -> None:
    path, old, new, words = edited
    text = (folder / path).read_text()
    assert old in text
    done = run(
        controller,
        folder,
        "--retries=0",
        profile=profile,
        edit=lambda: (folder / path).write_text(text.replace(old, new)),
    )
    assert done != 0
    assert made(folder) == 1
    said = printed(folder) + logs(folder) + slurm_logs(folder)
    assert words in said, said
    assert stale(controller, folder) == {"make_masks"}
    (folder / path).write_text(text)
    assert run(controller, folder) == 0, printed(folder) + logs(folder)
    assert verify(folder).returncode == 0


def slurm_logs(folder: Path) -> str:
    """The end of the output of Snakemake in each SLURM job."""
    paths = sorted(folder.glob(".snakemake/slurm_logs/**/*.log"))
    return "\n".join(path.read_text()[-2000:] for path in paths)
