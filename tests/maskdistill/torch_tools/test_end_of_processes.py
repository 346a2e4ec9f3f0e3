"""Trainings with several processes that get SIGTERM or are killed."""

import json
import os
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.maskdistill.torch_tools.launching import SIDE, command_line, start_torchrun
from workflow_scripts import train_mask_rcnn
from workflow_scripts.maskdistill.files import label_maps, masks, shards


def write_scenes(folder, order):
    """Write images of one bright rectangle, their label maps, and pseudo-labels as a COCO file."""
    rows, content = [], {"categories": [{"id": 1, "name": "cluster_001"}]}
    content |= {"images": [], "annotations": []}
    for number, drawn in enumerate(order, 1):
        rng = np.random.default_rng(drawn)
        mask = np.zeros((SIDE, SIDE), bool)
        top, left = rng.integers(1, 10, 2)
        height, width = rng.integers(10, 20, 2)
        mask[top : top + height, left : left + width] = True
        labels = mask.astype(np.uint8)
        image = np.array([[60, 60, 60], [200, 120, 30]])[labels]
        image = image + rng.integers(0, 30, image.shape)
        name = f"{number}.png"
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
        rows.append(label_maps.row(number, name, labels))
        rle = masks.encode(mask)
        size = {"height": SIDE, "width": SIDE}
        content["images"].append({"id": number, "file_name": name, **size})
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "segmentation": {"size": [SIDE, SIDE], "counts": rle.rle_counts.decode()},
                "bbox": [rle.x, rle.y, rle.box_width, rle.box_height],
                "area": rle.area,
                "iscrowd": 0,
            }
        )
    shards.write_table(folder / "label_maps.parquet", "label_maps", rows, {})
    (folder / "pseudo_labels.json").write_text(json.dumps(content))


def test_sigterm_reaches_the_processes_and_leaves_a_checkpoint(tmp_path):
    write_scenes(tmp_path, range(4))
    arguments = command_line(train_mask_rcnn, tmp_path, iterations=100, batch_size=2)
    arguments[arguments.index("--workers") + 1] = "2"  # one loading process for each of the two
    with start_torchrun("-m", train_mask_rcnn.__name__, *arguments) as process:
        while not (started := list(tmp_path.glob("work/*/history.jsonl"))):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)  # all processes of the group at once, as SLURM does
        assert process.wait(timeout=300) != 0
    checkpoint = torch.load(started[0].parent / "last.pt", weights_only=True)
    assert 0 < checkpoint["step"] < 100
    assert not (tmp_path / "model.pt").exists()
    # A single process continues from the checkpoint that two processes saved.
    train_mask_rcnn.main(arguments)
    steps = np.loadtxt(tmp_path / "history.csv", delimiter=",", skiprows=1, usecols=0)
    assert steps.tolist() == list(range(1, 101))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal of Linux")
def test_kill_9_of_snakemake_leaves_a_checkpoint_and_no_process(tmp_path):
    write_scenes(tmp_path, range(4))
    arguments = command_line(train_mask_rcnn, tmp_path, iterations=300, batch_size=2)
    torchrun = [sys.executable, "-m", "workflow_scripts.torchrun", "--nproc-per-node", "2", "-m"]
    snakemake = (
        "import os, subprocess, sys\n"
        "os.environ['MASKDISTILL_SNAKEMAKE'] = str(os.getpid())\n"
        "subprocess.run(sys.argv[1:])"
    )
    command = [sys.executable, "-c", snakemake, *torchrun, train_mask_rcnn.__name__, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    # The pipe closes when the last process that has it open has ended.
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        while not (started := list(tmp_path.glob("work/*/history.jsonl"))):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        assert select.select([process.stdout], [], [], 300)[0]
        # The only output is the warning that the training starts from random weights.
        assert all(line.startswith(b"warning: ") for line in process.stdout)
    checkpoint = torch.load(started[0].parent / "last.pt", weights_only=True)
    assert 0 < checkpoint["step"] < 300
    assert not (tmp_path / "model.pt").exists()
