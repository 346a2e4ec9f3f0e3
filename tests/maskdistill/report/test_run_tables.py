from pathlib import Path

import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.report import run_tables
from workflow_scripts.maskdistill.report.document import render
from workflow_scripts.maskdistill.report.inputs import ReportInputs


def inputs(**changes):
    defaults = {
        "dataset": "tiny",
        "split": "val",
        "root": Path(),
        "settings": {},
        "findings": [],
        "images": {},
        "masks": {},
        "assignments": [],
        "steps": {},
    }
    return ReportInputs(**defaults | changes)


def test_settings_are_shown_by_stage_with_dotted_names():
    found = run_tables.sections({"seeds": [0, 1], "crf": {"rounds": 1, "bilateral": {"sigma": 3}}})
    assert found == [
        {"name": "seeds", "rows": [("", [0, 1])]},
        {"name": "crf", "rows": [("rounds", 1), ("bilateral.sigma", 3)]},
    ]


def test_counts_tell_what_became_of_the_images(tmp_path):
    manifest = {"val": [{"image_id": i, "status": "ok"} for i in range(3)]}
    manifest["val"].append({"image_id": 3, "status": "empty file (0 bytes)"})
    rows = [{"image_id": i, "mask_id": j, "status": "ok"} for i in (0, 1) for j in (0, 1)]
    rows.append({"image_id": 2, "mask_id": 0, "status": "no proposal"})
    shards.write_table(tmp_path / "masks.parquet", "masks", rows, {})
    candidates = [{"image_id": 1, "candidate_id": i, "cluster": 1} for i in range(5)]
    shards.write_table(tmp_path / "candidates.parquet", "candidates", candidates, {})
    found = run_tables.counts(
        inputs(
            masks={"val": [tmp_path / "masks.parquet"]},
            candidates={"val": [tmp_path / "candidates.parquet"]},
        ),
        manifest,
    )
    assert [(row["stage"], row["rows"], row["images"], row["statuses"]) for row in found] == [
        ("images", 4, 4, [("ok", 3), ("rejected", 1)]),
        ("masks", 5, 3, [("ok", 4), ("no proposal", 1)]),
        ("candidates", 5, 1, [("images without any", 2)]),
    ]


def test_sources_are_what_shards_say_of_weights(tmp_path):
    made_by = provenance.record("masks", {"top_k": 1}, weights={"sha256": "abc"})
    shards.write_table(tmp_path / "masks.parquet", "masks", [], made_by)
    found = run_tables.sources(inputs(masks={"val": [tmp_path / "masks.parquet"]}))
    assert found == [("masks", "weights.sha256", "abc")]


def test_a_split_without_manifest_is_one_line():
    with pytest.raises(InputError, match="'val': its manifest is missing"):
        render(inputs())
