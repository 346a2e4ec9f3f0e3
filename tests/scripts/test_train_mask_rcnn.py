import csv
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts import train_mask_rcnn
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks

SETTINGS = {
    "depth": 18,
    "weights": None,
    "frozen_stages": 0,
    "norm": "group",
    "roi_size": 4,
    "anchor_sizes": [16, 24],
    "iterations": 2,
    "batch_size": 2,
    "train_sides": [32],
    "proposals": 10,
    "sampled_proposals": 8,
    "sampled_anchors": 16,
    "learning_rate": 0.001,
}
# Tests that must pass with either engine are run with both; Detectron2 may not be installed.
ENGINES = [
    "torchvision",
    pytest.param(
        "detectron2",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("detectron2") is None,
            reason="Detectron2 is not installed (docs/paper.md says how)",
        ),
    ),
]


def options(folder, **settings):
    """Write two images with a bright rectangle each; gives the command line to train on them."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cluster_001"}]}
    for number in (1, 2):
        mask = np.zeros((32, 32), bool)
        mask[8 : 20 + number, 6:20] = True
        Image.fromarray((200 * mask).astype(np.uint8)).save(folder / f"{number}.png")
        rle = masks.encode(mask)
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": 32, "width": 32}
        )
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "segmentation": {"size": [32, 32], "counts": rle.rle_counts.decode()},
                "bbox": [rle.x, rle.y, rle.box_width, rle.box_height],
                "area": rle.area,
                "iscrowd": 0,
            }
        )
    (folder / "pseudo_labels.json").write_text(json.dumps(content))
    paths = {
        "--pseudo-labels": folder / "pseudo_labels.json",
        "--root": folder,
        "--work-dir": folder / "runs",
        "--model": folder / "out" / "model.pt",
        "--history": folder / "out" / "history.csv",
    }
    text = json.dumps({"mask_rcnn": SETTINGS | settings})
    rest = ["--seed", "3", "--device", "cpu", "--settings", text]
    return [str(word) for pair in paths.items() for word in pair] + rest


def history(folder):
    with open(folder / "out" / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("engine", ENGINES)
def test_model_and_history_are_written(tmp_path, engine):
    assert train_mask_rcnn.main(options(tmp_path, engine=engine)) == 0

    model = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert (model["engine"], model["clusters"], model["seed"]) == (engine, 1, 3)
    assert model["settings"]["iterations"] == 2
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2"]
    parts = ["classifier", "box_reg", "mask", "objectness", "rpn_box_reg"]
    for row in rows:
        assert float(row["loss"]) == pytest.approx(sum(float(row[p]) for p in parts), rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_share_the_batch_and_one_writes(tmp_path, engine):
    settings = {"engine": engine, "norm": "batch" if engine == "detectron2" else "group"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "workflow_scripts.train_mask_rcnn", *options(tmp_path, **settings)]
    command += ["--workers", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    subprocess.run(command, env=environment, check=True, timeout=300)

    model = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert all(value.isfinite().all() for value in model["state_dict"].values())
    assert [row["step"] for row in history(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("extra", "settings", "message"),
    [
        ([], {"engine": "detectron3"}, "engine: 'detectron3' should be"),
        ([], {"iteration": 1}, "did you mean 'iterations'"),
        (["--checkpoint-every", "0"], {}, "checkpoint-every"),
        (["--pseudo-labels", "none.json"], {}, "none.json: no such file"),
    ],
)
def test_bad_input_is_an_error_of_one_line(tmp_path, extra, settings, message):
    with pytest.raises(InputError, match=message) as error:
        train_mask_rcnn.main(options(tmp_path, **settings) + extra)

    assert "\n" not in str(error.value)
