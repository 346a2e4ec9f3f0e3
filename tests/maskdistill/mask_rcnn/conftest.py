"""A data set that a Mask R-CNN learns within a minute, and trainings on it with every engine."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

CPU = torch.device("cpu")
# Settings for networks and trainings that are as small as the engines allow.
TINY = {
    "weights": None,
    "frozen_stages": 0,
    "iterations": 4,
    "batch_size": 2,
    "train_sides": [40, 48],
    "proposals": 20,
    "sampled_proposals": 16,
    "sampled_anchors": 32,
    "learning_rate_steps": [3],
    "warmup_iterations": 2,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
}
TINY_ENGINES = {
    "torchvision": TINY
    | {
        "engine": "torchvision",
        "depth": 18,
        "norm": "group",
        "fpn": True,
        "fpn_channels": 32,
        "anchor_sizes": [8, 16, 24, 32, 48],
    },
    "detectron2": TINY
    | {
        "engine": "detectron2",
        "depth": 10,
        "norm": "batch",
        "roi_size": 4,
        "anchor_sizes": [16, 24, 32],
    },
}
COLOURS = {1: np.array([180, 180, 180]), 2: np.array([180, 0, 0])}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Twelve images of a white square (cluster 1) or a red disc (cluster 2): COCO file, folder."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": c, "name": f"cluster_{c:03d}"} for c in (1, 2)]
    rows, columns = np.mgrid[:48, :56]
    for number in range(1, 13):
        y, x, radius = rng.uniform(14, 34), rng.uniform(14, 42), rng.uniform(8, 12)
        cluster = 1 + number % 2
        dy, dx = np.abs(rows - y), np.abs(columns - x)
        mask = (np.maximum(dy, dx) if cluster == 1 else np.hypot(dy, dx)) < radius
        image = rng.integers(0, 60, (48, 56, 3)) + mask[..., None] * COLOURS[cluster]
        Image.fromarray(image.astype(np.uint8)).save(root / f"{number}.png")
        encoded = masks.encode(mask)
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": 48, "width": 56}
        )
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": cluster,
                "segmentation": {"size": [48, 56], "counts": encoded.rle_counts.decode()},
                "bbox": [encoded.x, encoded.y, encoded.box_width, encoded.box_height],
                "area": encoded.area,
                "iscrowd": 0,
            }
        )
    path = root / "pseudo_labels.json"
    path.write_text(json.dumps(content))
    return path, root


@pytest.fixture(scope="module", params=TINY_ENGINES)
def engine(request):
    """The name of each engine in turn; tests are skipped if the engine is not installed."""
    if request.param == "detectron2":
        pytest.importorskip(
            "detectron2", reason="Detectron2 is not installed (docs/paper.md says how)"
        )
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(engine, shapes, tmp_path_factory):
    """A training without interruption: the content of its model file, and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return fit(engine, shapes, folder), folder


def fit(name, shapes, folder, *, workers=0, checkpoint_every=100, **settings):
    """Train with the engine `name`; returns the content of the model file."""
    path, root = shapes
    engines.engine(name).fit(
        path,
        root,
        settings=MaskRCNNSettings.read(TINY_ENGINES[name] | settings),
        seed=5,
        files=TrainingFiles(folder / "runs", folder / "model.pt", folder / "history.csv", {}),
        runtime=Runtime(device=CPU, workers=workers, checkpoint_every=checkpoint_every),
    )
    return torch.load(folder / "model.pt", weights_only=True)


def losses(folder):
    """The loss of every step."""
    with open(folder / "history.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
