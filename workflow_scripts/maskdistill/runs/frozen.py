"""The config and digests of a run, which the main process writes to a file and every job reads.

Jobs on a cluster parse the workflow again, perhaps days later. They take configs and digests from
the file that the main process has written, so that edits made in the meantime have no effect. They
stop with an error if the rules have changed since the run was started.
"""

import dataclasses
import datetime
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.runs.code_digest import rules_digest
from workflow_scripts.maskdistill.runs.declared_settings import declared_settings
from workflow_scripts.maskdistill.settings.checks import (
    all_unreached_falls,
    other_tokens,
    untrained,
    untrained_warning,
    validate,
)
from workflow_scripts.maskdistill.settings.cluster_names import curated, names_cautions, read_names
from workflow_scripts.maskdistill.settings.downloads import dataset_source, read_catalogue
from workflow_scripts.maskdistill.settings.splits import is_downloaded
from workflow_scripts.maskdistill.settings.whole_config import WorkflowConfig, dataset_config

VARIABLE = "MASKDISTILL_RUN"  # environment variable of jobs with the path of the file
_KEPT = 30 * 24 * 3600  # seconds that the files of ended runs are kept
_AGAIN = "let the other jobs end or stop them, and start snakemake again"


@dataclass(frozen=True, kw_only=True)
class FrozenRun:
    """What the main process reads and checks when a run starts, and later changes do not affect."""

    rules: str  # digest of the rules, see `code_digest.rules_digest`
    config: dict  # config of the workflow
    configs: dict[str, dict]  # dataset → merged config; includes datasets in `clustering.support`
    names: dict[str, dict[int, dict]]  # dataset → seed → entry of config/names/DATASET.yaml
    catalogue: dict  # content of resources/downloads.yaml
    applied: dict[str, str]  # split of new images, applied/NAME → folder
    found: dict[str, object] = field(default_factory=dict)  # results that `once` stores

    def once(self, name: str, find: Callable[[], object]) -> object:
        """The stored result for `name`; the first call computes it with `find`.

        Jobs get the result of the main process, even if files have changed in the meantime.

        Args:
            name: identifies the result.
            find: computes the result, a JSON value.
        """
        if name not in self.found:
            self.found[name] = find()
        return self.found[name]


def this_run(config: Mapping, home: Path, *, is_main_process: bool) -> FrozenRun:
    """The run that Snakemake is about to start, or, in a job, the run that the job belongs to.

    The main process puts the path of the run's file into the environment, where jobs find it.

    Raises:
        InputError: see `parse` and `read`.
    """
    rules = rules_digest(home)
    if not is_main_process:
        return read(os.environ.get(VARIABLE), rules=rules)
    run = parse(config, home, rules=rules)
    started = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    os.environ[VARIABLE] = os.path.abspath(f".snakemake/runs/{started}-{os.getpid()}.json")
    return run


def parse(config: Mapping, home: Path, *, rules: str) -> FrozenRun:
    """Read and check all files that the config names.

    Files in the working directory take precedence over those in the repository.

    Args:
        config: config of the workflow.
        home: folder of the repository.
        rules: digest of the rules in `home`.

    Raises:
        InputError: a file is missing, or a key or value is wrong; names it and the remedy.
    """
    validate(WorkflowConfig, config, source="config")
    catalogue = read_catalogue(home / "resources" / "downloads.yaml")
    configs = _configs(config, home, catalogue)
    folders = [Path("config/names"), home / "config" / "names"]
    names = {name: _names(name, one, folders) for name, one in configs.items()}
    return FrozenRun(
        rules=rules,
        config=dict(config),
        configs=configs,
        names=names,
        catalogue=catalogue,
        applied=_applied(config["apply"]),
    )


def _configs(config: Mapping, home: Path, catalogue: Mapping) -> dict[str, dict]:
    """The configs of all active datasets and of those that support their clustering."""
    configs: dict[str, dict] = {}
    waiting = list(config["datasets"])
    while waiting:
        name = waiting.pop(0)
        if name in configs:
            continue
        configs[name] = dataset_config(
            name,
            config,
            [Path("config/datasets"), home / "config" / "datasets"],
            downloadable=catalogue["files"],
        )
        waiting += configs[name]["clustering"]["support"]
        dataset = configs[name]["dataset"]
        generated, root = dataset["generate"] is not None, dataset["root"]
        if generated and root != f"data/{name}":
            raise InputError(f"{name}: dataset.root of generated scenes must be data/{name}")
        if is_downloaded(configs[name]):
            dataset_source(dataset["download"], catalogue)
        elif not generated and not Path(root).is_dir():
            raise InputError(
                f"{name}: there is no folder {root}; set dataset.root in "
                f"config/datasets/{name}.yaml to the folder of the images"
            )
    check_support(configs, home)
    return configs


def check_support(configs: Mapping[str, Mapping], home: Path) -> None:
    """Check that datasets and those in their `clustering.support` have the same embeddings.

    Raises:
        InputError: the settings differ; names both datasets.
    """
    embedding = declared_settings(home)["embed_masks"]
    for name, config in configs.items():
        for support in config["clustering"]["support"]:
            if embedding.select(config) != embedding.select(configs[support]):
                raise InputError(
                    f"{name}: clustering.support: {support} has other settings of `features` or "
                    "`embedding`, so that their embeddings cannot share clusters; make them equal"
                )


def _names(dataset: str, config: Mapping, folders: list[Path]) -> dict[int, dict]:
    """Names of the clusters of a dataset: seed → its entry in config/names/DATASET.yaml."""
    path = next(filter(Path.is_file, (folder / f"{dataset}.yaml" for folder in folders)), None)
    if path is None:
        return {}
    found = read_names(path)
    for values in found.values():
        try:
            curated(config, values["clusters"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return found


def _applied(folders: str | list[str]) -> dict[str, str]:
    """Folders of new images as further splits."""
    found: dict[str, str] = {}
    for folder in map(Path, [folders] if isinstance(folders, str) else folders):
        name = re.sub(r"[^\w.-]+", "_", folder.resolve().name) or "root"
        split = f"applied/{name}"
        if not folder.is_dir():
            raise InputError(f"apply: there is no folder {folder}; correct the path")
        if split in found:
            raise InputError(f"apply: {folder} and {found[split]} have the same name; rename one")
        found[split] = str(folder)
    return found


def cautions(run: FrozenRun) -> list[str]:
    """Warnings about settings that are probably mistakes, one line each."""
    of_names = [
        f"config/names/{name}.yaml: {caution}"
        for name, config in run.configs.items()
        for caution in names_cautions(config, run.names[name])
    ]
    of_weights = [
        f"{name}: {untrained_warning(stage)}"
        for name in run.config["datasets"]
        # Generated scenes are so simple that trainings need no weights.
        if run.configs[name]["dataset"]["generate"] is None
        for stage in untrained(run.configs[name])
    ]
    of_schedules = [
        f"{name}: {warning}"
        for name in run.config["datasets"]
        for warning in all_unreached_falls(run.configs[name])
    ]
    of_tokens = [
        f"{name}: {warning}"
        for name in run.config["datasets"]
        if (warning := other_tokens(run.configs[name]))
    ]
    return [*of_names, *of_weights, *of_tokens, *of_schedules]


def write(run: FrozenRun, path: str | os.PathLike) -> None:
    """Write a run to a file for its jobs, and delete the files of old runs in the same folder."""
    write_text(path, json.dumps(dataclasses.asdict(run)))
    for other in Path(path).parent.glob("*-*.json"):
        process = other.stem.rpartition("-")[2]
        # A file is kept while its process runs on this machine. Whether a run on another machine
        # has ended is not known, so its file is kept for the time `_KEPT`.
        if other.stat().st_mtime < time.time() - _KEPT and not Path("/proc", process).exists():
            other.unlink(missing_ok=True)


def read(path: str | os.PathLike | None, *, rules: str | None = None) -> FrozenRun:
    """Read the file that the main process has written for its jobs.

    Args:
        path: path of the file; None if the environment variable is missing.
        rules: digest of the rules as they are now; None to skip the comparison.

    Raises:
        InputError: there is no such file, or the rules have changed.
    """
    if path is None:
        raise InputError(
            f"the environment variable {VARIABLE} is missing: jobs of a run need it from the main "
            "process of snakemake; have the executor pass the environment on"
        )
    content = read_json(path, remedy="start snakemake again, without --no-hooks")
    if rules not in (None, content["rules"]):
        raise InputError(f"the rules have changed since this run was started; {_AGAIN}")
    for by_seed in content["names"].values():
        for seed in list(by_seed):  # keys of JSON objects are always strings
            named = by_seed.pop(seed)
            named["clusters"] = {int(k): v for k, v in named["clusters"].items()}
            by_seed[int(seed)] = named
    return FrozenRun(**content)
