"""Charts of the report as SVG: calibration, confusion, losses."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.confusion_matrix import matched_counts
from workflow_scripts.maskdistill.evaluation.step_titles import candidate_step
from workflow_scripts.maskdistill.pictures import charts

CHART_POINTS = 300  # most points of a loss curve


def calibration(summary: Mapping) -> dict | None:
    """Chart of the mask IoU of candidates over their score; None if there are no candidates."""
    steps = summary.get("instances", {"steps": {}})["steps"]
    found = steps.get(candidate_step(steps), {}).get("calibration", {"bins": []})
    bins = [row for row in found["bins"] if row["score"]["mean"] is not None]
    if not bins:
        return None
    x = [row["score"]["mean"] for row in bins]
    series = {
        "mask IoU with the best object": [row["iou"]["mean"] for row in bins],
        "share with an IoU above 0.5": [row["hit_rate"]["mean"] for row in bins],
        "equal to the score": x,
    }
    return {
        "names": list(series),
        "svg": charts.line_chart(
            {name: charts.Series(x, y) for name, y in series.items()},
            x_label="score of the candidate, mean of ten intervals",
            y_label="mean",
        ),
        "rank_correlation": found["rank_correlation"],
        "bins": bins,
    }


def confusion(metrics: Mapping, step: str, mapping: np.ndarray) -> str:
    """A confusion matrix as SVG: one row per class, one column per prediction; rows sum to 1."""
    counts = np.array(metrics["steps"][step]["confusion_matrix"], dtype=np.int64)
    matched = matched_counts(counts, mapping)
    names = metrics["class_names"]
    columns = [*names, "no class"]
    if not matched[:, -1].any():
        matched, columns = matched[:, :-1], names
    shares = matched / np.maximum(matched.sum(axis=1, keepdims=True), 1)
    return charts.heat_map(shares, names, columns)


def loss(name: str, path: Path) -> dict | None:
    """The loss of one training, averaged over short intervals; None if the history is empty."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: no such loss history; train again") from None
    if not rows:
        return None
    # Parts of the loss are further columns: loss_mask, loss_classifier, …
    columns = [column for column in rows[0] if column.startswith("loss")]
    if "step" not in rows[0] or "loss" not in columns:
        raise InputError(f"{path}: a loss history needs the columns step and loss; train again")
    series = {}
    for column in columns:
        known = [(float(r["step"]), float(r[column])) for r in rows if r[column]]
        if known:
            points = np.array(known)
            parts = np.array_split(points, min(CHART_POINTS, len(points)))
            series[column] = charts.Series(*np.array([p.mean(axis=0) for p in parts]).T.tolist())
    return {
        "title": name,
        "names": list(series),
        "svg": charts.line_chart(series, x_label="step", y_label="loss"),
        "steps": int(float(rows[-1]["step"])),
        "first": series["loss"].y[0],
        "last": series["loss"].y[-1],
    }
