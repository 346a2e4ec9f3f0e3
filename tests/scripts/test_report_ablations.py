import json

import pytest

from workflow_scripts import report_ablations
from workflow_scripts.maskdistill.errors import InputError

CELL = {"ours": {"mean": 0.5, "sd": None, "n": 1}, "paper": 0.458, "difference": 0.042}
TABLE = {
    "evaluated_on": {"split": "val", "images": 3},
    "matched_on": {"split": "val", "images": 3},
    "title": "mIoU",
    "matching": "hungarian",
    "unit": "fraction",
    "rows": [{"name": "segmentation_crf", "cells": {"mIoU": CELL}}],
}


def call(tmp_path, obstacles, *further):
    item = {"item": "table_1", "title": "Table 1: <x>", "obstacles": obstacles, "tables": [TABLE]}
    (tmp_path / "table_1.json").write_text(json.dumps(item))
    output = tmp_path / "report.html"
    options = ["--dataset=demo", f"--items={tmp_path}/table_1.json", f"--output={output}"]
    assert report_ablations.main([*options, *further]) == 0
    return output.read_text()


def test_numbers_stand_beside_the_papers(tmp_path):
    text = call(tmp_path, [])
    for shown in ("Table 1: &lt;x&gt;", "Segmentation + CRF", "50.0", "45.8", "4.2", "(1)"):
        assert shown in text, shown
    assert "not comparable" not in text
    assert "https://" not in text
    assert "Left out" not in text


def test_what_needs_objects_is_said_to_be_left_out(tmp_path):
    text = call(tmp_path, [], "--left-out", "table_3", "figure_4")
    (line,) = [line for line in text.splitlines() if "Left out" in line]
    assert "evaluation.objects: false" in line
    named = "Table 3: mask AP; Figure 4: share of patches that are proposals."
    assert line.removesuffix("</p>").endswith(named)


def test_what_cannot_be_compared_is_marked(tmp_path):
    text = call(tmp_path, ["another dataset"])
    assert "not comparable" in text
    assert "another dataset" in text
    assert "Paper †" in text


def test_a_missing_item_is_an_error(tmp_path):
    options = [f"--items={tmp_path}/table_9.json", f"--output={tmp_path}/report.html"]
    with pytest.raises(InputError, match="run the ablations again"):
        report_ablations.main(["--dataset=demo", *options])
