import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.scripts.test_train_mask_rcnn import ENGINES
from workflow_scripts import predict_candidates
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, provenance, shards
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings

SIZES = {11: (32, 40), 12: (32, 40), 13: (48, 32), 14: (32, 40), 15: (20, 20)}
SETTINGS = {"shorter_side": 32, "proposals": 12, "per_image": 3, "score_floor": 0.0}


@pytest.fixture(params=ENGINES)
def folder(tmp_path, request):
    """Five images of three sizes, the last one rejected; a manifest; an untrained model."""
    rng = np.random.default_rng(0)
    rows = []
    for image_id, (height, width) in SIZES.items():
        status = "too small" if image_id == 15 else shards.OK
        if status == shards.OK:
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{image_id}.png")
        rows.append(
            {
                "image_id": image_id,
                "file_name": f"{image_id}.png",
                "height": height,
                "width": width,
                "shard": 0,
                "status": status,
            }
        )
    shards.write_table(tmp_path / "images.parquet", "images", rows, {})
    torch.manual_seed(0)
    settings = MaskRCNNSettings.read(
        {
            "engine": request.param,
            "depth": 18,
            "weights": None,
            "frozen_stages": 0,
            "norm": "group",
            "roi_size": 4,
            "anchor_sizes": [16, 24],
        }
    )
    network = engines.engine(settings.engine).build_mask_rcnn(settings, 2)
    model = {
        "engine": settings.engine,
        "settings": dict(settings),
        "clusters": 2,
        "state_dict": network.state_dict(),
    }
    torch.save(model, tmp_path / "model.pt")
    return tmp_path


def predict(folder, name="candidates.parquet", *, batch_size=2, workers=1, **settings):
    arguments = [
        *("--images", folder / "images.parquet", "--root", folder, "--model", folder / "model.pt"),
        *("--output", folder / name, "--device", "cpu"),
        *("--batch-size", batch_size, "--workers", workers),
        *("--settings", json.dumps({"candidates": SETTINGS | settings})),
    ]
    assert predict_candidates.main([str(argument) for argument in arguments]) == 0
    return shards.group_by_image(folder / name)


def test_rows_are_numbered_by_falling_score_and_masks_have_the_images_size(folder):
    images = predict(folder)

    assert images.keys() == SIZES.keys() - {15}
    for image_id, rows in images.items():
        assert [row["candidate_id"] for row in rows] == list(range(len(rows)))
        assert 0 < len(rows) <= 3
        scores = [row["score"] for row in rows]
        assert scores == sorted(scores, reverse=True)
        for row in rows:
            assert row["cluster"] in (1, 2)
            assert (row["height"], row["width"]) == SIZES[image_id]
            mask = masks.decode(row["rle_counts"], row["height"], row["width"])
            assert row["area"] == mask.sum() > 0
            assert 0 <= row["x"] < row["x"] + row["box_width"] <= row["width"] + 1e-3
            assert 0 <= row["y"] < row["y"] + row["box_height"] <= row["height"] + 1e-3


def test_runtime_options_change_nothing(folder):
    one = predict(folder, "one.parquet", batch_size=1, workers=1)
    many = predict(folder, "many.parquet", batch_size=8, workers=3)

    # Rounding cannot change the order here: the candidates were the same, in the same order, when
    # all weights were changed by 1e-4 of their values, a thousand times more than rounding.
    assert list(one) == list(many)
    for image_id in one:
        assert len(one[image_id]) == len(many[image_id])
        for a, b in zip(one[image_id], many[image_id], strict=True):
            assert a["cluster"] == b["cluster"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
            assert a["x"] == pytest.approx(b["x"], abs=1e-2)


def test_an_image_without_candidate_keeps_a_row(folder):
    images = predict(folder, score_floor=1.0)

    assert images.keys() == SIZES.keys() - {15}
    for image_id, (row,) in images.items():
        assert (row["height"], row["width"]) == SIZES[image_id]
        empty = row.keys() - {"image_id", "height", "width"}
        assert {row[name] for name in empty} == {None}


def test_provenance_names_settings_and_model(folder):
    predict(folder)

    metadata = shards.read_metadata(folder / "candidates.parquet")
    assert metadata["stage"] == "candidates"
    assert metadata["settings"]["candidates"]["shorter_side"] == 32
    model = folder / "model.pt"
    assert metadata["inputs"][str(model)] == provenance.file_digest(model)[:16]


def test_an_image_that_vanished_is_an_error_and_no_output(folder):
    (folder / "13.png").unlink()

    with pytest.raises(InputError, match=r"13\.png: missing file"):
        predict(folder)
    assert not (folder / "candidates.parquet").exists()


def test_an_image_that_changed_is_an_error(folder):
    Image.new("RGB", (9, 9)).save(folder / "13.png")

    with pytest.raises(InputError, match=r"13\.png: .* but listed as"):
        predict(folder)
