"""The benchmark on photographs runs the workflow, on a few generated scenes in VOC's layout."""

import json
import os

import pytest

from tests.bench.photos.__main__ import main
from tests.rules.conftest import BACKBONE, write_backbone
from workflow_scripts.maskdistill.demo import scenes
from workflow_scripts.maskdistill.files import shards

pytestmark = pytest.mark.workflow


def test_masks_of_token_cut_go_through_the_workflow(tmp_path, capfd) -> None:
    """TokenCut's masks are clustered, and a second run computes nothing."""
    scenes.write_voc_tree(tmp_path / "voc", train=4, val=2, seed=3)
    write_backbone(tmp_path / "backbone.pth")
    work = tmp_path / "work"
    options = [f"--data={tmp_path / 'voc'}", f"--work-dir={work}", "--until=clusters"]
    options += [
        f"--backbone=vit_tiny_patch16_224={tmp_path / 'backbone.pth'}"
        f"@features.backbone_options={json.dumps(BACKBONE)}@features.shorter_side=64"
    ]
    options += ["--rows", "token_cut", "--seeds", "0", "--clusters", "2", "--cores", "2"]
    assert main(options) == 0
    measured = json.loads((work / "photos.json").read_text())
    (row,) = measured["transformers"][0]["rows"]
    assert row["masks"]["images"] == 2
    assert row["clusters"]["miou"]["n"] == 1
    assert 0 <= row["clusters"]["purity"]["mean"] <= 1
    assert (work / "photos.md").read_text() in capfd.readouterr().out
    made = sorted(work.glob("results/*/**/*.parquet"))
    token_cut = [path for path in made if "masks-token_cut/train/masks" in str(path)]
    assert shards.read_metadata(*token_cut)["baseline"] == "token_cut"
    times = {path: path.stat().st_mtime_ns for path in made}
    assert main(options) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == times
    # Clusters of other masks than those that are there now have no scores.
    os.utime(token_cut[0])
    assert main([*options, "--table-only"]) == 0
    (row,) = json.loads((work / "photos.json").read_text())["transformers"][0]["rows"]
    assert row["masks"]["images"] == 2
    assert row["clusters"] is None
