import numpy as np
import pytest

from workflow_scripts.maskdistill.evaluation.metrics import (
    CLASS_METRICS,
    STEP_METRICS,
    PixelCounts,
)
from workflow_scripts.maskdistill.files import shards

# Background and two classes; cluster 1 is class 2, cluster 2 is matched with no class.
COUNTS = PixelCounts(
    confusion=np.array([[6, 0, 0], [0, 0, 4], [2, 8, 0]]),
    mapping=np.array([0, 2, -1]),
    boundaries=np.array([[1, 0, 3], [2, 4, 3], [1, 0, 4]]),
)


def test_metrics_per_class():
    found = {name: compute(COUNTS).tolist() for name, compute in CLASS_METRICS.items()}
    assert found["iou"] == pytest.approx([6 / 8, 0, 8 / 10])
    assert found["boundary_iou"] == pytest.approx([1 / 2, 0, 3 / 4])


def test_metrics_per_step():
    found = {name: metric.compute(COUNTS) for name, metric in STEP_METRICS.items()}
    assert found["miou"] == pytest.approx((6 / 8 + 8 / 10) / 3)
    assert found["pixel_accuracy"] == pytest.approx(14 / 20)
    assert found["boundary_iou"] == pytest.approx((1 / 2 + 3 / 4) / 3)
    assert found["purity"] == pytest.approx(18 / 20)


def test_metrics_are_undefined_without_any_pixel():
    empty = PixelCounts(*map(np.zeros_like, COUNTS))
    assert all(np.isnan(metric.compute(empty)) for metric in STEP_METRICS.values())
    assert all(np.isnan(compute(empty)).all() for compute in CLASS_METRICS.values())


def test_numbers_in_the_tables_per_class_are_metrics():
    columns = set(shards.schema("per_class").names) - {"step", "matching", "class", "clusters"}
    assert columns <= CLASS_METRICS.keys()
