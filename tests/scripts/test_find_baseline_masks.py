import json

import numpy as np
import pytest

from tests.scripts.test_make_masks import GRID, PATCH, RESIZED, SIZE, feature_row, rectangle
from workflow_scripts import find_baseline_masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, provenance, shards

SETTINGS = {
    "masks": {"center_keys": False},
    "evaluation": {"ablations": {"dino_seg_mass": 0.75, "lost_patches": 400}},
}


@pytest.fixture
def call(tmp_path, write_manifest):
    def run(baseline, rows, ids=None):
        entries = {i: (f"{i}.jpg", *SIZE) for i in ids or [row["image_id"] for row in rows]}
        entries[99] = ("bad.jpg", None, None, "empty file (0 bytes)")
        manifest = write_manifest(tmp_path / "images.parquet", entries)
        metadata = provenance.record("features", {}, patch_size=PATCH)
        shards.write_table(tmp_path / "features.parquet", "features", rows, metadata)
        output = tmp_path / "masks.parquet"
        options = [f"--baseline={baseline}", f"--settings={json.dumps(SETTINGS)}"]
        options += [f"--images={manifest}", f"--features={tmp_path / 'features.parquet'}"]
        assert find_baseline_masks.main([*options, f"--output={output}"]) == 0
        return list(shards.read_rows(output))

    return run


def on_image(grid):
    return masks.grid_to_image(grid, patch_size=PATCH, resized=RESIZED, size=SIZE)


def test_lost_finds_the_object(call):
    inside = rectangle(1, 3, 2, 5)
    row, broken = call("lost", [feature_row(3, inside), {"image_id": 4, "status": "not finite"}])
    assert (row["image_id"], row["mask_id"], row["status"]) == (3, 0, "ok")
    assert inside[row["source_row"], row["source_col"]]
    found = masks.decode(row["rle_counts"], row["height"], row["width"])
    np.testing.assert_array_equal(found, on_image(inside))
    assert broken["status"] == "not finite"


def test_dino_seg_follows_the_attention(call):
    features = feature_row(3, rectangle(0, 1, 0, 1))
    attention = np.full((3, GRID[0] * GRID[1]), 0.0, np.float32)
    attention[:, [8, 9]] = 30
    (row,) = call("dino_seg", [{**features, "cls_affinity": attention.ravel()}])
    expected = np.zeros(GRID, bool)
    expected.ravel()[[8, 9]] = True
    found = masks.decode(row["rle_counts"], row["height"], row["width"])
    np.testing.assert_array_equal(found, on_image(expected))
    assert row["proposals"] == 2


def test_a_lost_image_is_an_error(call):
    with pytest.raises(InputError, match=r"missing ids: \[5\]"):
        call("lost", [feature_row(3, rectangle(0, 2, 0, 2))], ids=[3, 5])
