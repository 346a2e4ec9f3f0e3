import json

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.segmentation import crf, label_map_prediction
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings
from workflow_scripts.maskdistill.torch_tools.training_run import publish
from workflow_scripts.refine_predictions import main

SIZES = [(40, 56), (48, 48), (40, 56), (33, 47)]
PREDICTIONS = {"predictions": PredictionSettings().plain()}
SETTINGS = {
    "longer_side": None,
    "iterations": 3,
    "gaussian_weight": 3,
    "gaussian_sigma": 1,
    "bilateral_weight": 4,
    "bilateral_sigma_xy": 20.0,
    "bilateral_sigma_rgb": 3,
    "min_probability": 0,
}
ARCHITECTURE = {
    "depth": 18,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1],
    "head_width": 8,
    "dropout": 0.5,
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    model = build_deeplab(3, **ARCHITECTURE)
    content = {"state_dict": model.state_dict(), "settings": ARCHITECTURE, "clusters": 3}
    publish(content, tmp_path / "model.pt")
    rng = np.random.default_rng(0)
    rows = []
    for number, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
        rows.append(
            {
                "image_id": number,
                "file_name": f"{number}.jpg",
                "height": height,
                "width": width,
                "shard": 0,
                "status": "ok",
            }
        )
    shards.write_table(tmp_path / "images.parquet", "images", rows, {})
    return tmp_path


def arguments(folder, settings):
    return [
        *("--images", str(folder / "images.parquet"), "--root", str(folder)),
        *("--model", str(folder / "model.pt"), "--output", str(folder / "refined.parquet")),
        *("--settings", json.dumps({"crf": settings, **PREDICTIONS}), "--device", "cpu"),
        *("--batch-size", "1", "--workers", "2"),
    ]


def test_label_maps_are_the_crfs_of_the_models_probabilities(folder):
    assert main(arguments(folder, SETTINGS)) == 0
    found = {
        image_id: labels
        for image_id, _, labels in label_maps.read_shard(folder / "refined.parquet")
    }
    assert list(found) == [0, 1, 2, 3]
    predictor = label_map_prediction.load_predictor(folder / "model.pt", torch.device("cpu"))
    manifest = shards.read_usable(folder / "images.parquet")
    settings = CRFSettings.read(SETTINGS)
    for one in predictor.predict(manifest, folder, batch_size=1, workers=1):
        probabilities = one.probabilities(settings.longer_side)
        expected = crf.refined_labels(probabilities, one.image, settings)
        np.testing.assert_array_equal(found[one.row["image_id"]], expected)
    metadata = shards.read_metadata(folder / "refined.parquet")
    assert metadata["stage"] == "predictions"
    assert metadata["settings"] == {"crf": SETTINGS, **PREDICTIONS}


def test_bad_settings_and_lost_images_are_one_line_and_leave_no_output(folder):
    with pytest.raises(InputError, match=r"crf\.sigma"):
        main(arguments(folder, {"sigma": 1}))
    (folder / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"2\.jpg: missing file"):
        main(arguments(folder, SETTINGS))
    assert not (folder / "refined.parquet").exists()
