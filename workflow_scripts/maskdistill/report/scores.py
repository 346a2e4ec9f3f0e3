"""Scores of the report, next to those of the paper."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED
from workflow_scripts.maskdistill.evaluation.matching import stored_mapping
from workflow_scripts.maskdistill.evaluation.metrics import STEP_METRICS
from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.paper import comparison
from workflow_scripts.maskdistill.pictures import drawing
from workflow_scripts.maskdistill.report import figures
from workflow_scripts.maskdistill.report.inputs import ReportInputs


def score_tables(inputs: ReportInputs) -> dict:
    """All scores, for the template of the report."""
    first = next(iter(inputs.metrics.values()))
    summary, paper = inputs.summary, inputs.paper_tables
    names = first["class_names"]
    dataset = comparison.paper_dataset(inputs.settings)
    steps = {}
    for step, values in summary["steps"].items():
        mapping = stored_mapping(first, step)
        steps[step] = {
            **values,
            "title": step_title(step),
            "cell": comparison.step_miou(summary, step, paper, dataset),
            "by_seed": [run["steps"][step]["miou"] for run in inputs.metrics.values()],
            "classes": [None if m == UNMATCHED else names[m] for m in mapping],
            "heat_map": figures.confusion(first, step, mapping),
        }
    return {
        "steps": list(steps.values()),
        "further_metrics": {
            name: metric.label for name, metric in STEP_METRICS.items() if name != "miou"
        },
        "groups": [
            {"method": method, "steps": [steps[step] for step in members]}
            for method, members in comparison.step_groups(summary).items()
        ],
        "linear": [
            {**summary["linear_probe"]["steps"][step], "title": step_title(step), "cell": cell}
            for step, cell in comparison.linear_miou(summary, paper, dataset).items()
        ],
        "on_training_images": summary["split"] == "train",
        "last_round": comparison.last_round(summary),
        "instances": [
            {
                **table,
                "paper": _published(cell for row in table["rows"] for cell in row["cells"]),
                "rows": [{**row, "title": step_title(row["step"])} for row in table["rows"]],
            }
            for table in comparison.instance_tables(summary, paper, dataset)
        ],
        # The images on which objects were evaluated, and those on which clusters were matched.
        "objects": {k: v for k, v in summary.get("instances", {}).items() if k != "steps"},
        "object_obstacles": comparison.instance_obstacles(inputs.settings, summary),
        "masks": [
            {**step, "title": step_title(name)}
            for name, step in summary.get("instances", {"steps": {}})["steps"].items()
        ],
        "calibration": figures.calibration(summary),
        "obstacles": comparison.obstacles(inputs.settings, summary),
        "seeds": list(inputs.metrics),
        # Numbers of pseudo-classes by seed, if config/names merges their clusters differently.
        "class_counts": summary["clusters"] if len(set(summary["clusters"])) > 1 else [],
        "split": summary["split"],
        "images": summary["images"],
        "class_names": names,
        "class_tables": [
            _class_table(names, method, columns)
            for method, columns in comparison.class_tables(summary, paper)
        ],
        "cluster_names": inputs.settings["curation"]["names"],
    }


def _class_table(names: Sequence[str], method: str, columns: Mapping[str, Mapping]) -> dict:
    """IoU by class of the steps with one matching method; see `comparison.class_tables`."""
    return {
        "method": method,
        "columns": [
            {
                "title": step_title(step),
                "paper": _published(cells.values()),
            }
            for step, cells in columns.items()
        ],
        "rows": [
            {
                "name": name,
                "colour": drawing.css_colour(label_maps.colours(np.array(i))),
                "cells": [cells[name] for cells in columns.values()],
            }
            for i, name in enumerate(names)
        ],
    }


def _published(cells: Iterable[Mapping]) -> bool:
    """Whether the paper has a number for any of these cells."""
    return any(cell["paper"] is not None for cell in cells)
