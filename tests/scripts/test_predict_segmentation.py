import json

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill.files import label_maps, provenance, shards
from workflow_scripts.maskdistill.segmentation import label_map_prediction
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.settings.sections.predictions import PredictionSettings
from workflow_scripts.maskdistill.torch_tools.training_run import publish
from workflow_scripts.predict_segmentation import main

SIZES = [(40, 56), (48, 48), (40, 56), (33, 47)]
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
    # With the random weights as they are, all pixels would have the same class.
    with torch.no_grad():
        model.head[-1].weight *= 30
        model.head[-1].bias.zero_()
    content = {"state_dict": model.state_dict(), "settings": ARCHITECTURE, "clusters": 3}
    publish(content, tmp_path / "model.pt")
    rng = np.random.default_rng(0)
    rows = [{"image_id": 9, "file_name": "bad.jpg", "shard": 0, "status": "missing file"}]
    (tmp_path / "in").mkdir()
    for number, (height, width) in enumerate(SIZES):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        pixels = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
        pixels.save(tmp_path / f"in/{number}.jpg")
        rows.append(
            {
                "image_id": number,
                "file_name": f"in/{number}.jpg",
                "height": height,
                "width": width,
                "shard": 0,
                "status": "ok",
            }
        )
    shards.write_table(tmp_path / "images.parquet", "images", rows, {})
    return tmp_path


def arguments(folder, output, batch_size):
    return [
        *("--images", str(folder / "images.parquet"), "--root", str(folder)),
        *("--model", str(folder / "model.pt"), "--output", str(folder / output)),
        *(
            "--settings",
            json.dumps({"predictions": PredictionSettings().plain()}),
            "--device",
            "cpu",
        ),
        *("--batch-size", str(batch_size), "--workers", "2"),
    ]


def test_every_image_that_is_ok_has_a_label_map_of_its_size(folder):
    assert main(arguments(folder, "predictions.parquet", 2)) == 0
    rows = list(shards.read_rows(folder / "predictions.parquet"))
    assert [row["image_id"] for row in rows] == [0, 1, 2, 3]
    assert [row["file_name"] for row in rows] == [f"in/{n}.jpg" for n in range(4)]
    assert [row["image"]["path"] for row in rows] == [f"in/{n}.png" for n in range(4)]
    found = [label_maps.decode_png(row["image"]["bytes"]) for row in rows]
    assert [labels.shape for labels in found] == SIZES
    predictor = label_map_prediction.load_predictor(folder / "model.pt", torch.device("cpu"))
    manifest = shards.read_usable(folder / "images.parquet")
    for one in predictor.predict(manifest, folder, batch_size=1, workers=1):
        # Batches of another size may round logits differently, by less than 1e-5 here, so only
        # pixels with a clear best class are compared.
        best, second = one.logits.topk(2, dim=0).values
        clear = (best - second > 1e-4).numpy()
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(found[one.row["image_id"]][clear], one.labels()[clear])
    metadata = shards.read_metadata(folder / "predictions.parquet")
    assert metadata["stage"] == "predictions"
    model = folder / "model.pt"
    assert metadata["inputs"][str(model)] == provenance.file_digest(model)[:16]
