import csv
import json

import numpy as np
import pytest
import torch

from tests.scripts import test_train_segmentation as segmentation
from workflow_scripts import train_segmentation
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.train_linear_probe import main

DATASET = {
    "adapter": "voc",
    "ground_truth": True,
    "classes": ["a", "b", "c", "d"],
    "splits": {"train": "train"},
}

PROBE = {name: value for name, value in LinearProbeSettings().plain().items() if name != "enabled"}


def arguments(root, **probe):
    settings = {
        "dataset": DATASET,
        "segmentation": {
            "longer_side": None,
            "crop_size": 32,
            "scale": [0.8, 1.25],
            "rotation": 10,
            "flip": True,
        },
        "predictions": {"precision": "float32"},
        "evaluation": {"linear_probe": {**PROBE, "epochs": 3, "batch_size": 2, **probe}},
    }
    return [
        *("--ground-truth", str(root / "truth.parquet"), "--root", str(root), "--split", "train"),
        *("--segmentation-model", str(root / "out" / "model.pt"), "--seed", "1"),
        *("--work-dir", str(root / "probe_work"), "--model", str(root / "probe.pt")),
        *("--history", str(root / "probe.csv"), "--device", "cpu", "--workers", "0"),
        *("--settings", json.dumps(settings)),
    ]


@pytest.fixture
def root(tmp_path):
    train_segmentation.main(segmentation.arguments(tmp_path, segmentation.write_shards(tmp_path)))
    rows = []
    for number in range(4):
        labels = np.full((36, 40), number + 1, np.uint8)
        labels[:2] = 255
        rows.append(label_maps.row(number, f"{number}.jpg", labels))
    shards.write_table(tmp_path / "truth.parquet", "label_maps", rows, {})
    (tmp_path / "SegmentationClass").mkdir()
    return tmp_path


def test_it_writes_a_model_of_the_classes_and_its_history(root):
    assert main(arguments(root)) == 0
    model = torch.load(root / "probe.pt", weights_only=True)
    assert set(model) == {"state_dict", "settings", "clusters", "provenance"}
    assert model["clusters"] == 4
    with open(root / "probe.csv") as file:
        assert len(list(csv.DictReader(file))) == 6  # 4 images in batches of 2, three times


def test_bad_input_is_one_line(root):
    with pytest.raises(InputError, match=r"linear_probe\.epohcs.*did you mean 'epochs'"):
        main(arguments(root, epohcs=3))
    labels = np.full((36, 40), 9, np.uint8)
    shards.write_table(
        root / "truth.parquet", "label_maps", [label_maps.row(0, "0.jpg", labels)], {}
    )
    with pytest.raises(InputError, match="label 9, but there are 4"):
        main(arguments(root))
