import json

import numpy as np
import pytest

from workflow_scripts import make_masks
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, provenance, shards
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

SETTINGS = {
    "top_k": 0.4,
    "heads": None,
    "center_keys": False,
    "source_component": False,
    "per_image": 1,
}
PATCH, RESIZED, SIZE = 8, (30, 44), (61, 90)
GRID = (4, 6)


def feature_row(image_id, inside, seed=0):
    """Features of an image with an object on some patches."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=12)
    keys = np.where(inside.ravel()[:, None], direction, -direction)
    return {
        "image_id": image_id,
        "grid_height": GRID[0],
        "grid_width": GRID[1],
        "resized_height": RESIZED[0],
        "resized_width": RESIZED[1],
        "cls_affinity": np.tile(inside.ravel() + 0.1 * rng.random(24), 3).astype(np.float32),
        "keys": keys.astype(np.float16).ravel(),
        "status": "ok",
    }


@pytest.fixture
def call(tmp_path, write_manifest):
    def run(rows, ids=None, **changes):
        entries = {i: (f"{i}.jpg", *SIZE) for i in ids or [row["image_id"] for row in rows]}
        entries[99] = ("bad.jpg", None, None, "empty file (0 bytes)")
        manifest = write_manifest(tmp_path / "images.parquet", entries)
        metadata = provenance.record("features", {}, patch_size=PATCH)
        shards.write_table(tmp_path / "features.parquet", "features", rows, metadata)
        output = tmp_path / "masks.parquet"
        options = [f"--settings={json.dumps({'masks': {**SETTINGS, **changes}})}"]
        options += [f"--images={manifest}", f"--features={tmp_path / 'features.parquet'}"]
        assert make_masks.main([*options, f"--output={output}"]) == 0
        return list(shards.read_rows(output))

    return run


def rectangle(y0, y1, x0, x1):
    inside = np.zeros(GRID, bool)
    inside[y0:y1, x0:x1] = True
    return inside


def test_the_object_at_the_image_s_own_size(call):
    inside = rectangle(1, 3, 2, 5)
    (row,) = call([feature_row(7, inside)])
    assert (row["image_id"], row["mask_id"], row["status"]) == (7, 0, "ok")
    assert (row["height"], row["width"]) == SIZE
    mask = masks.decode(row["rle_counts"], *SIZE)
    expected = masks.grid_to_image(inside, patch_size=PATCH, resized=RESIZED, size=SIZE)
    np.testing.assert_array_equal(mask, expected)
    assert row["area"] == expected.sum()
    # The object begins at row 8 of 30 and is 24 of 44 columns wide in the resized image.
    assert row["y"] == pytest.approx(8 / 30 * 61, abs=1)
    assert row["box_width"] == pytest.approx(24 / 44 * 90, abs=1)
    assert inside[row["source_row"], row["source_col"]]
    assert row["proposals"] == 6


def test_settings_reach_the_algorithm(call):
    rng = np.random.default_rng(3)
    row = feature_row(7, rectangle(0, 2, 0, 2))
    row["keys"] = rng.normal(size=24 * 12).astype(np.float16)
    row["cls_affinity"] = rng.normal(size=72).astype(np.float32)
    changes = {"top_k": 0.1, "heads": [1], "center_keys": True, "per_image": 3}
    found = affinity.object_masks(
        row["keys"].reshape(24, 12),
        row["cls_affinity"].reshape(3, 24),
        GRID,
        MaskSettings(**{**SETTINGS, **changes}),
    )
    rows = call([row], **changes)
    assert [r["mask_id"] for r in rows] == list(range(len(found)))
    assert [(r["source_row"], r["source_col"]) for r in rows] == [m.source for m in found]
    assert [r["proposals"] for r in rows] == [m.proposals for m in found]


def test_images_without_features_or_mask_keep_a_row(call):
    rejected = {"image_id": 2, "status": "missing file"}
    nothing = feature_row(3, rectangle(0, 1, 0, 1))
    nothing["keys"] = np.zeros_like(nothing["keys"])
    rows = call([feature_row(1, rectangle(1, 3, 2, 5)), rejected, nothing])
    assert [(r["image_id"], r["mask_id"], r["status"]) for r in rows] == [
        (1, 0, "ok"),
        (2, 0, "missing file"),
        (3, 0, "empty mask"),
    ]
    assert rows[2]["area"] == 0


def test_an_image_without_features_at_all_is_an_error(call, tmp_path):
    with pytest.raises(InputError, match=r"features\.parquet: .*missing ids: \[2\]"):
        call([feature_row(1, rectangle(1, 3, 2, 5))], ids=[1, 2])
    assert not (tmp_path / "masks.parquet").exists()


def test_no_images_at_all(call):
    assert call([]) == []


def test_refinement_needs_the_images(call):
    with pytest.raises(InputError, match=r"masks\.refinement .* --root"):
        call([feature_row(1, rectangle(1, 3, 2, 5))], refinement="crf")
