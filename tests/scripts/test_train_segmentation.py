import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.train_segmentation import main

SETTINGS = {
    "depth": 18,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1],
    "head_width": 8,
    "epochs": 2,
    "batch_size": 2,
    "crop_size": 32,
}


def arguments(root, shard_paths, settings=SETTINGS):
    nested = {"segmentation": settings, "clustering": {"clusters": 2}}
    return [
        *("--label-maps", *map(str, shard_paths), "--root", str(root)),
        *("--work-dir", str(root / "work"), "--model", str(root / "out" / "model.pt")),
        *("--history", str(root / "out" / "history.csv"), "--seed", "1"),
        *("--settings", json.dumps(nested), "--device", "cpu", "--workers", "0"),
    ]


def write_shards(root):
    paths = []
    for shard in range(2):
        rows = []
        for number in range(2 * shard, 2 * shard + 2):
            Image.new("RGB", (40, 36), (50 * number, 90, 90)).save(root / f"{number}.jpg")
            labels = np.full((36, 40), number % 3, np.uint8)
            rows.append(label_maps.row(number, f"{number}.jpg", labels))
        paths.append(root / f"{shard:04d}.parquet")
        shards.write_table(paths[-1], "label_maps", rows, {})
    return paths


def test_it_trains_on_all_shards_and_writes_model_and_history(tmp_path, capsys):
    assert main(arguments(tmp_path, write_shards(tmp_path))) == 0
    assert (
        "segmentation.weights is null, so it starts from random numbers" in capsys.readouterr().out
    )
    model = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert set(model) == {"state_dict", "settings", "clusters", "provenance"}
    assert model["clusters"] == 2
    assert model["settings"]["head_width"] == 8
    with open(tmp_path / "out" / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "learning_rate"]
    assert len(rows) == 4  # 4 images in batches of 2, twice


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        main(arguments(tmp_path, [tmp_path / "none.parquet"]))
    with pytest.raises(InputError, match=r"segmentation\.depht"):
        main(arguments(tmp_path, write_shards(tmp_path), SETTINGS | {"depht": 18}))
