"""The metrics of label maps, in two tables: metrics of a step, and metrics of each class.

A step is a stage of the workflow whose label maps are scored. Every metric is computed from the
same pixel counts. Metrics are at most 1, and higher is better. Metrics in these tables are written
to metrics.json; `summarize` averages the metrics of steps over the seeds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from workflow_scripts.maskdistill.evaluation.boundaries import boundary_iou
from workflow_scripts.maskdistill.evaluation.confusion_matrix import agreement, scores


class PixelCounts(NamedTuple):
    """Pixel counts over all images of one step.

    Attributes:
        confusion: (K + 1) x (C + 1) int64, see `confusion_matrix.ConfusionMatrix`.
        mapping: C + 1 int64, cluster → class 0..K or `UNMATCHED`, see `matching.Matching`.
        boundaries: 3 x (K + 1) int64, see `boundaries.boundary_counts`.
    """

    confusion: np.ndarray
    mapping: np.ndarray
    boundaries: np.ndarray


class StepMetric(NamedTuple):
    """One number per step: its displayed name and its function; nan means undefined."""

    label: str
    compute: Callable[[PixelCounts], float]


def _mean_boundary_iou(counts: PixelCounts) -> float:
    by_class = boundary_iou(counts.boundaries)
    defined = by_class[~np.isnan(by_class)]
    return float(defined.mean()) if len(defined) else np.nan


STEP_METRICS = {
    "miou": StepMetric("mIoU", lambda counts: scores(counts.confusion, counts.mapping).miou),
    "pixel_accuracy": StepMetric(
        "pixel accuracy", lambda counts: scores(counts.confusion, counts.mapping).pixel_accuracy
    ),
    "boundary_iou": StepMetric("boundary IoU", _mean_boundary_iou),
    "nmi": StepMetric("NMI", lambda counts: agreement(counts.confusion).nmi),
    "ari": StepMetric("ARI", lambda counts: agreement(counts.confusion).ari),
    "purity": StepMetric("purity", lambda counts: agreement(counts.confusion).purity),
}

# Metric → function from the counts to K + 1 values; nan where it is undefined for a class. Metrics
# that are columns of `per_class` in files/schemas.py are also in the tables per class.
CLASS_METRICS: dict[str, Callable[[PixelCounts], np.ndarray]] = {
    "iou": lambda counts: scores(counts.confusion, counts.mapping).iou,
    "boundary_iou": lambda counts: boundary_iou(counts.boundaries),
}
