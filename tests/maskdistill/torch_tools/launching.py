"""Starts small trainings for tests, in one process or in several."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
from PIL import Image

from tests import job_server
from workflow_scripts import train_segmentation
from workflow_scripts.maskdistill.files import label_maps, masks, shards

SIDE = 32
SEGMENTATION = {
    "depth": 10,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1],
    "head_width": 16,
    "epochs": 3,  # with two steps each
    "batch_size": 4,
    "learning_rate": 0.05,
    "learning_rate_milestones": [2],
    "crop_size": SIDE,
    "scale": [0.8, 1.5],
    "hardest_fraction": 0.2,
    "dropout": 0.5,
}
MASK_RCNN = {
    "depth": 10,
    "weights": None,
    "frozen_stages": 0,
    "norm": "group",
    "roi_size": 4,
    "anchor_sizes": [12, 20],
    "iterations": 12,
    "batch_size": 4,
    "train_sides": [SIDE],
    "proposals": 8,
    "sampled_proposals": 4,
    "sampled_anchors": 32,
    "learning_rate": 0.003,
    "gradient_clip": 1.0,
    "warmup_iterations": 2,
}
UNEVEN_MASK_RCNN = MASK_RCNN | {
    "norm": "batch",
    "iterations": 6,
    "train_sides": [40, 56],
    "sampled_proposals": 8,
    "gradient_clip": 0.5,
    "learning_rate": 0.01,
}
PYRAMID = {"fpn": True, "fpn_channels": 32, "anchor_sizes": [8, 12, 16, 24, 32]}


def start_torchrun(*arguments):
    """Start two processes of a training under torchrun, as the workflow does."""
    command = [sys.executable, "-m", "workflow_scripts.torchrun", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        [*command, *map(str, arguments)], env=environment, start_new_session=True
    )


def torchrun(*arguments):
    with start_torchrun(*arguments) as process:
        assert process.wait(timeout=600) == 0


def run_processes(module, *arguments, processes, python_path=""):
    """Run a module in processes that find each other as under torchrun.

    They come from `job_server`, which saves each of them from importing PyTorch.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [job_server.python(), "-m", module, *map(str, arguments)]
    running = []
    for rank in range(processes):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(python_path)}
        running.append(subprocess.Popen(command, env=environment | place | group))
    assert [process.wait(timeout=600) for process in running] == [0] * processes


def command_line(program, folder, *, device="cpu", **changes):
    """Arguments for a training on the images of a folder; `changes` are changes of settings."""
    if program is train_segmentation:
        options = ["--label-maps", folder / "label_maps.parquet"]
        settings = {"segmentation": SEGMENTATION | changes, "clustering": {"clusters": 2}}
    else:
        options = ["--pseudo-labels", folder / "pseudo_labels.json"]
        settings = {"mask_rcnn": MASK_RCNN | changes}
    options += ["--root", folder, "--work-dir", folder / "work", "--model", folder / "model.pt"]
    options += ["--history", folder / "history.csv", "--seed", 0, "--device", device]
    return list(map(str, [*options, "--settings", json.dumps(settings), "--workers", 0]))


def write_uneven_scenes(folder):
    """Write six images of different sizes with one to three objects; labels cover only a part."""
    rows, content = [], {"categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]}
    content |= {"images": [], "annotations": []}
    rng = np.random.default_rng(1)
    for number in range(1, 7):
        height, width = (int(side) for side in rng.integers(40, 72, 2))
        image = rng.integers(0, 90, (height, width, 3))
        labels = np.full((height, width), label_maps.IGNORE, np.uint8)
        name = f"{number}.png"
        content["images"].append(
            {"id": number, "file_name": name, "height": height, "width": width}
        )
        for cluster in rng.integers(1, 3, number % 3 + 1):
            mask = np.zeros((height, width), bool)
            top, left = rng.integers(0, 20, 2)
            mask[top : top + rng.integers(10, 20), left : left + rng.integers(10, 20)] = True
            image[mask] += np.array([160, 80 * cluster, 0])
            labels[:12, :12] = np.where(mask[:12, :12], cluster, 0)
            rle = masks.encode(mask)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(cluster),
                    "segmentation": {"size": [height, width], "counts": rle.rle_counts.decode()},
                    "bbox": [rle.x, rle.y, rle.box_width, rle.box_height],
                    "area": rle.area,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
        rows.append(label_maps.row(number, name, labels))
    shards.write_table(folder / "label_maps.parquet", "label_maps", rows, {})
    (folder / "pseudo_labels.json").write_text(json.dumps(content))
