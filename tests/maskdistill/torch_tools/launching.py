"""How tests start small trainings, in one process or in several under torchrun."""

import json
import os
import subprocess
import sys

from workflow_scripts import train_segmentation

SIDE = 32
SEGMENTATION = {
    "depth": 10,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1],
    "head_width": 16,
    "epochs": 3,  # of two steps each
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


def start_torchrun(*arguments, processes=2):
    """Start a training; one process runs without torchrun, as in the workflow."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "workflow_scripts.torchrun", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command += map(str, arguments)
    return subprocess.Popen(command, env=environment, start_new_session=True)


def torchrun(*arguments, processes=2):
    with start_torchrun(*arguments, processes=processes) as process:
        assert process.wait(timeout=600) == 0


def command_line(program, folder, **changes):
    """Train on the scenes of a folder; `changes` are those of the settings."""
    if program is train_segmentation:
        options = ["--label-maps", folder / "label_maps.parquet"]
        settings = {"segmentation": SEGMENTATION | changes, "clustering": {"clusters": 2}}
    else:
        options = ["--pseudo-labels", folder / "pseudo_labels.json"]
        settings = {"mask_rcnn": MASK_RCNN | changes}
    options += ["--root", folder, "--work-dir", folder / "work", "--model", folder / "model.pt"]
    options += ["--history", folder / "history.csv", "--seed", 0, "--device", "cpu"]
    return list(map(str, [*options, "--settings", json.dumps(settings), "--workers", 0]))
