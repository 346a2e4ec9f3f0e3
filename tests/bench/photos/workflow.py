"""Runs the workflow for the plans, stage by stage, and knows the paths of its files."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from tests.bench.photos import token_cut
from tests.bench.photos.plan import SPLITS, Plan
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.run import run_name


class Workflow:
    """The workflow of this repository, in a separate folder where earlier runs are continued.

    Args:
        work: folder of its configs and outputs.
        plans: the runs of the workflow.
        cores: the most CPU cores that it uses.
        device: `runtime.device`.
    """

    def __init__(self, work: Path, plans: Sequence[Plan], *, cores: int, device: str) -> None:
        self._work, self._cores = work.absolute(), cores
        config = {
            "datasets": [plan.dataset for plan in plans],
            "runtime": {"device": device, "threads": cores},
        }
        self._config = self._work / "photos.yaml"
        self._config.write_text(yaml.safe_dump(config))

    def path(self, relative: str) -> Path:
        """The path of a file of the workflow."""
        return self._work / relative

    def run(self, what: str, targets: Iterable[str]) -> bool:
        """Make files, with Snakemake's progress on the terminal; returns False if this failed.

        Args:
            what: description of the files, for the terminal.
            targets: paths of the files, relative to the folder.
        """
        wanted = list(dict.fromkeys(targets))
        if not wanted:
            return True
        print(f"\n{what}:", flush=True)
        command = [sys.executable, "-m", "snakemake", "--snakefile", REPOSITORY / "Snakefile"]
        command += ["--directory", self._work, "--configfile", self._config]
        command += ["--profile", REPOSITORY / "profiles" / "local", "--cores", self._cores]
        command += ["--quiet", "rules", "host", "--", *wanted]
        return subprocess.run(list(map(str, command)), check=False).returncode == 0

    def cut_with_token_cut(self, plan: Plan, splits: Iterable[str]) -> None:
        """Write TokenCut's masks as files of the workflow, from which Snakemake then continues."""
        run = run_name(plan.dataset, f"masks-{token_cut.NAME}")
        wanted = [(split, shard) for split in splits for shard in plan.shards(split)]
        for split, shard in progress(wanted, description=f"TokenCut, {run}", unit="shard"):
            token_cut.write_shard(
                self.path(f"results/{plan.dataset}/{split}/images/{shard}.parquet"),
                self.path(f"results/{plan.dataset}/{split}/features/{shard}.parquet"),
                self.path(f"results/{run}/{split}/masks/{shard}.parquet"),
                self.path(f"benchmarks/{run}/{split}/masks/{shard}.tsv"),
                center=plan.config["masks"]["center_keys"],
            )

    def check_token_cut(self, plan: Plan) -> None:
        """Check that the workflow did not replace TokenCut's masks.

        Raises:
            InputError: other masks are in their place.
        """
        run = run_name(plan.dataset, f"masks-{token_cut.NAME}")
        for path in sorted(self.path(f"results/{run}").glob("*/masks/*.parquet")):
            if shards.read_metadata(path).get("baseline") != token_cut.NAME:
                raise InputError(
                    f"{path}: the workflow has replaced TokenCut's masks; remove {path.parents[2]} "
                    "and run again"
                )


def features(plan: Plan, splits: Iterable[str]) -> list[str]:
    """The files with the features of these splits."""
    return _shards(plan, f"results/{plan.dataset}/{{split}}/features", splits)


def images(plan: Plan, splits: Iterable[str]) -> list[str]:
    """The manifests of these splits."""
    return _shards(plan, f"results/{plan.dataset}/{{split}}/images", splits)


def masks(plan: Plan, variant: str, splits: Iterable[str]) -> list[str]:
    """The files with the masks of a variant of the run."""
    return _shards(plan, f"results/{run_name(plan.dataset, variant)}/{{split}}/masks", splits)


def assignments(plan: Plan, variant: str, seed: int) -> list[str]:
    """The files with the clusters of the masks of `val`."""
    base = f"results/{run_name(plan.dataset, variant)}/seed-{seed}/{{split}}/assignments"
    return _shards(plan, base, SPLITS[1:])


def initial_label_maps(plan: Plan, variant: str, seed: int) -> list[str]:
    """The files with label maps of `val`, painted from masks and their clusters."""
    base = f"results/{run_name(plan.dataset, variant)}/seed-{seed}/{{split}}/initial_label_maps"
    return _shards(plan, base, SPLITS[1:])


def metrics(plan: Plan, seed: int) -> str:
    """The file with the scores of all steps of the main run."""
    return f"results/{plan.dataset}/seed-{seed}/metrics.json"


def _shards(plan: Plan, folder: str, splits: Iterable[str]) -> list[str]:
    return [
        f"{folder.format(split=split)}/{shard}.parquet"
        for split in splits
        for shard in plan.shards(split)
    ]
