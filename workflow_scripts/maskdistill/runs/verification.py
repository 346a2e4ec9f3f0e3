"""Checks whether outputs match the current config, code and input files.

Snakemake compares its own records of past jobs with the jobs that it would run now. This module
instead compares the provenance records in the files, so that it also notices files that were
copied or replaced. A file differs if it was made with other settings or code, or from other input
files, weights, images or labels.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.runs.code_digest import code_digest
from workflow_scripts.maskdistill.runs.declared_settings import declared_settings
from workflow_scripts.maskdistill.runs.frozen import FrozenRun
from workflow_scripts.maskdistill.runs.run import Run
from workflow_scripts.maskdistill.settings.changes import canonical_json, changed_settings
from workflow_scripts.maskdistill.settings.splits import split_shards

_KINDS = {".parquet", ".json", ".csv", ".html", ".pt", ".svg"}  # of outputs that are files
_SHOWN = 3  # largest number of changed input files that a message names


@dataclass(frozen=True)
class Verdict:
    """Result of `verify`."""

    checked: int  # files and folders
    differences: dict[str, list[str]]  # path → how it differs
    left_over: list[str]  # paths of seeds, rounds or variants that the config lacks


def outputs(root: Path) -> Iterator[Path]:
    """The files and folders below `root` that programs of the workflow have written."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or path.name.endswith(provenance.ENDING):
            continue
        if path.is_dir():
            if provenance.read(path) is None:
                yield from outputs(path)
            else:
                yield path
        elif path.suffix in _KINDS:
            yield path


def sources(paths: Iterable[Path], root: Path) -> list[Path]:
    """These files and all outputs below `root` that they were made from, directly or not."""
    found: dict[Path, None] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found and path.exists() and path.is_relative_to(root):
            found[path] = None
            record = _read(path)
            waiting += map(Path, record.get("inputs", ()) if isinstance(record, Mapping) else ())
    return sorted(found)


def verify(paths: Iterable[Path], root: Path, run: FrozenRun, dataset: str, home: Path) -> Verdict:
    """Compare the provenance records of outputs with the current config, code and inputs.

    Args:
        paths: files and folders, see `outputs`.
        root: folder of the dataset's results; input files are found from the working directory.
        run: the current config.
        dataset: name of the dataset.
        home: folder of the repository.
    """
    expectation = _Expectation(run, dataset, home)
    paths = list(paths)
    differences, left_over = {}, []
    for path in progress(paths, description="verify", unit="file", total=len(paths)):
        where = expectation.place(path.relative_to(root))
        if where is None:
            left_over.append(str(path))
        elif found := list(expectation.differences(path, where)):
            differences[str(path)] = found
    return Verdict(len(paths) - len(left_over), differences, left_over)


def _read(path: Path) -> dict | str | None:
    """The provenance record of an output, or an error message if the file is damaged."""
    try:
        return provenance.read(path)
    except InputError as error:
        return str(error)


@dataclass(frozen=True)
class _Place:
    """What the path of an output tells about it."""

    config: Mapping  # config of the dataset, with the changes of the variant if it is in one
    names: Mapping[int, str]  # cluster → name
    split: str | None


class _Expectation:
    """The settings, code and inputs that outputs should have been made with."""

    def __init__(self, run: FrozenRun, dataset: str, home: Path) -> None:
        self._run, self._dataset = Run(run, home), dataset
        self._declared = declared_settings(home)
        self._config = run.configs[dataset]
        ablation_seeds = self._config["evaluation"]["ablations"]["seeds"] or []
        self._seeds = {*self._config["seeds"], *ablation_seeds}
        self._digest = functools.cache(provenance.content_digest)
        self._code = functools.cache(lambda name: code_digest(f"workflow_scripts.{name}", home))

    def place(self, path: Path) -> _Place | None:
        """What a path below the dataset's results tells; None if the config has no such output."""
        parts = path.parts
        variant = parts[1] if parts[0] == "ablations" and len(parts) > 2 else None
        if variant and variant not in self._run.variants[self._dataset]:
            return None
        seed = _number("seed", parts, self._config["seeds"][0])
        if seed not in self._seeds:
            return None
        if _number("round", parts, 0) > self._config["crf"]["rounds"]:
            return None
        split = next((part for part in parts if part in datasets.SPLITS), None)
        if "applied" in parts[:-1]:
            split = "/".join(parts[parts.index("applied") :][:2])
            if split not in self._run.applied:
                return None
        return _Place(
            self._run.config(self._dataset, variant),
            self._run.names(self._dataset, seed, variant),
            split,
        )

    def differences(self, path: Path, where: _Place) -> Iterator[str]:
        """Sentences that say how an output differs from the current config, code and inputs."""
        record = _read(path)
        if isinstance(record, str):
            yield record
        elif record is None or "program" not in record:
            yield "has no record of the program that made it"
        else:
            yield from self._of_code(record)
            yield from self._of_settings(record, where)
            yield from self._of_inputs(record["inputs"])
            yield from self._of_data(record, path, where)

    def _of_code(self, record: Mapping) -> Iterator[str]:
        program = record["program"]
        try:
            if record["code"] != self._code(program):
                yield f"the code of {program} has changed since it was made"
        except FileNotFoundError:
            yield f"made by {program}, a program that no longer exists"

    def _of_settings(self, record: Mapping, where: _Place) -> Iterator[str]:
        try:
            now = self._settings(record, where)
        except KeyError:  # a program of another version
            return
        yield from changed_settings(record["settings"], json.loads(canonical_json(now)))

    def _settings(self, record: Mapping, where: _Place) -> dict:
        """The settings that the program of a record would get now.

        Raises:
            KeyError: no rule declares settings for it.
        """
        program = record["program"]
        if program == "report_ablations":
            return {}
        if program == "find_baseline_masks":
            program = record["baseline"]
        if record.get("supervised"):
            program = "evaluate_linear_probe"
        declaration, config = self._declared[program], where.config
        if declaration.of_split:
            config = self._run.config_of_split(self._dataset, where.split)
        return declaration.select(config, where.names, where.split)

    def _of_inputs(self, inputs: Mapping[str, str]) -> Iterator[str]:
        gone = [path for path in inputs if not Path(path).exists()]
        others = [
            path
            for path, digest in inputs.items()
            if path not in gone and self._digest(path) != digest
        ]
        for what, paths in (("another {} than there is now", others), ("{}, which is gone", gone)):
            if paths:
                more = len(paths) - _SHOWN
                shown = ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
                yield "made from " + what.format(shown)

    def _of_data(self, record: Mapping, path: Path, where: _Place) -> Iterator[str]:
        """Compare images and labels with their digests from when the output was made."""
        split = record.get("split", where.split)
        described = self._run.described(self._dataset, split)
        root = Path(described["root"])
        try:
            if "listing" in record:
                shards = record["settings"]["shards"]
                own = datasets.images_of_shard(
                    self._run.listing(self._dataset, split), int(path.stem), shards
                )
                if datasets.listing_digest(own, root) != record["listing"]:
                    yield f"images in {root} were added, removed or replaced since it was made"
            if record.get("labels", "") not in ("", *datasets.WATCHED_ORIGINS):
                images = self._run.listing(self._dataset, split)
                if record["program"] == "write_ground_truth":
                    count = split_shards(self._config, split)
                    images = datasets.images_of_shard(images, int(path.stem), count)
                objects = record["program"] == "evaluate_instances"
                found = datasets.labels_digest(described, root, split, images, objects=objects)
                if found != record["labels"]:
                    yield f"labels in {root} were added, removed or replaced since it was made"
        except InputError as error:
            yield f"its images or labels cannot be read: {error}"


def _number(name: str, parts: Iterable[str], default: int) -> int:
    """The number in a part NAME-NUMBER of a path."""
    found = (re.fullmatch(rf"{name}-(\d+)", part) for part in parts)
    return next((int(match[1]) for match in found if match), default)


def describe(verdict: Verdict) -> list[str]:
    """The verdict as lines of text."""
    lines = [f"{path}: {'; '.join(found)}" for path, found in verdict.differences.items()]
    same = verdict.checked - len(verdict.differences)
    lines.append(
        f"{same} of {verdict.checked} files and folders match the current config, code and "
        "input files"
    )
    if verdict.left_over:
        lines.append(
            f"{len(verdict.left_over)} files and folders are of seeds, rounds or variants that the "
            f"config does not have now, for instance {verdict.left_over[0]}"
        )
    if verdict.differences:
        lines.append(
            f"{len(verdict.differences)} differ: remove them and run snakemake again, or restore "
            "the config, code or input files that they were made with"
        )
    return lines
