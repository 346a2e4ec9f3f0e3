"""Mean and standard deviation of metrics over the seeds of a run."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.metrics import STEP_METRICS
from workflow_scripts.maskdistill.files.json_io import read_json


def read_runs(paths: Sequence[Path]) -> list[dict]:
    """Read one file of metrics per seed.

    Raises:
        InputError: the files have different images, classes or steps.
    """
    runs = [read_json(path, remedy="run evaluate again") for path in paths]
    for path, run in zip(paths, runs, strict=True):
        for key in ("split", "class_names", "images", "matched_on"):
            if run.get(key) != runs[0].get(key):
                raise InputError(f"{path}: '{key}' differs from {paths[0]}; evaluate both again")
        if run["steps"].keys() != runs[0]["steps"].keys():
            raise InputError(f"{path}: its steps differ from {paths[0]}; evaluate both again")
    return runs


def summarize(runs: Sequence[Mapping]) -> dict:
    """Mean, standard deviation and number of runs of every metric, by step.

    Args:
        runs: contents of metrics.json, one per seed, with the same steps and classes.

    Returns:
        JSON values: `split`, `images`, `class_names`, number of `runs`, `clusters` of every run
        (they differ if config/names merges the clusters of each seed differently), and `steps`. A
        step has `matching` (the methods of all runs), every metric, and `per_class` (IoU). Metrics
        and IoU are {"mean", "sd", "n"}, not in percent, with n - 1 in the denominator of sd.
    """
    steps = {}
    for name in runs[0]["steps"]:
        parts = [run["steps"][name] for run in runs]
        steps[name] = {
            "matching": sorted({part["matching"]["method"] for part in parts}),
            **{metric: moments([part[metric] for part in parts]) for metric in STEP_METRICS},
            "per_class": {
                class_name: moments([part["per_class"][class_name]["iou"] for part in parts])
                for class_name in runs[0]["class_names"]
            },
        }
    first = runs[0]
    return {
        "split": first["split"],
        "images": first["images"],
        "class_names": first["class_names"],
        "runs": len(runs),
        "clusters": [run["clusters"] for run in runs],
        "steps": steps,
    }


def summarize_instances(runs: Sequence[Mapping]) -> dict:
    """Mean, standard deviation and number of runs of every metric of objects, by step.

    Args:
        runs: contents of instances.json, one per seed.

    Returns:
        JSON values: evaluated `split`, numbers of `images` and `objects`, `matched_on` (split and
        number of the images on which clusters were matched with classes), and `steps`.
    """
    facts = {key: runs[0][key] for key in ("split", "images", "objects", "matched_on")}
    return {**facts, "steps": moments_of([run["steps"] for run in runs])}


def moments_of(values: Sequence[object]) -> object:
    """The `moments` of each number over nested values of the same structure.

    A text becomes the sorted list of the different texts in its place.
    """
    first = values[0]
    if isinstance(first, Mapping):
        return {key: moments_of([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [moments_of(items) for items in zip(*values, strict=True)]
    if isinstance(first, str):
        return sorted(set(values))
    return moments(values)


def moments(values: Sequence[float | None]) -> dict:
    """Mean, sample standard deviation (null for fewer than two) and number of defined values."""
    defined = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "sd": statistics.stdev(defined) if len(defined) > 1 else None,
        "n": len(defined),
    }


def table(summary: Mapping) -> str:
    """The summary as aligned text, in percent."""
    header = ["step", *(metric.label for metric in STEP_METRICS.values()), "runs", "matching"]
    rows = [
        [
            name,
            *(_percent(step[metric]) for metric in STEP_METRICS),
            str(step["miou"]["n"]),
            ", ".join(step["matching"]),
        ]
        for name, step in summary["steps"].items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    caution = ""
    if len(set(summary["clusters"])) > 1:
        counts = ", ".join(map(str, summary["clusters"]))
        caution = (
            f"\nCAUTION: the runs have different numbers of pseudo-classes ({counts}), so the "
            "means say little"
        )
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    images = f"{summary['images']:,} images of '{summary['split']}'"
    return f"{images}, on which clusters were also matched with classes\n{text}{caution}"


def _percent(value: Mapping) -> str:
    if value["mean"] is None:
        return "–"
    spread = "" if value["sd"] is None else f" ± {100 * value['sd']:.1f}"
    return f"{100 * value['mean']:.1f}{spread}"
