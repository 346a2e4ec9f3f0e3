import re
from xml.etree import ElementTree

import numpy as np
import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED
from workflow_scripts.maskdistill.report import figures


def texts(svg):
    return {text.text for text in ElementTree.fromstring(svg).iter("text")}


def test_a_loss_curve_has_all_parts_of_the_loss(tmp_path):
    path = tmp_path / "history.csv"
    rows = [f"{step},{8 / step},{'' if step < 50 else 0.5}" for step in range(1, 2001)]
    path.write_text("\n".join(["step,loss,loss_mask", *rows]))
    chart = figures.loss("mask_rcnn", path)
    assert (chart["title"], chart["names"]) == ("mask_rcnn", ["loss", "loss_mask"])
    assert chart["steps"] == 2000
    # Means of stretches of about 2000 / 300 steps.
    assert chart["first"] == pytest.approx(np.mean(8 / np.arange(1, 8)))
    line = re.search(r'series-0" points="([^"]*)"', chart["svg"])[1]
    assert len(line.split()) == figures.CHART_POINTS


def test_a_training_without_steps_has_no_curve(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,loss\n")
    assert figures.loss("segmentation", path) is None
    with pytest.raises(InputError, match="train again"):
        figures.loss("segmentation", tmp_path / "none.csv")
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(InputError, match="columns step and loss"):
        figures.loss("segmentation", path)


@pytest.mark.parametrize(("mapping", "shown"), [([0, 1, 1], False), ([0, 1, UNMATCHED], True)])
def test_pixels_of_no_class_have_a_column_where_there_are_any(mapping, shown):
    metrics = {
        "class_names": ["background", "cat"],
        "steps": {"segmentation": {"confusion_matrix": [[8, 2, 0], [1, 6, 3]]}},
    }
    found = texts(figures.confusion(metrics, "segmentation", np.array(mapping)))
    assert ("no class" in found) is shown
    assert {"80", "20", "10"} <= found
    assert ("60" in found) is shown
    assert ("90" in found) is not shown


def test_without_candidates_there_is_no_calibration():
    assert figures.calibration({"steps": {}}) is None
    assert figures.calibration({"instances": {"steps": {"initial_masks": {}}}}) is None
