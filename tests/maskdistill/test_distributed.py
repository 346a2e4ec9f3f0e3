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

from workflow_scripts import train_mask_rcnn, train_segmentation
from workflow_scripts.maskdistill import distributed, label_maps, masks, shards
from workflow_scripts.maskdistill.errors import InputError

CPU = torch.device("cpu")

TWO_PROCESSES = """
import json, sys
import torch
from workflow_scripts.maskdistill import distributed

cpu = torch.device("cpu")
with distributed.process_group(cpu) as device:
    rank = distributed.rank()
    torch.manual_seed(rank)  # the weights of the first process must win
    model = torch.nn.Linear(3, 2)
    parallel = distributed.parallel(model, device)
    inputs = torch.arange(12.0).reshape(4, 3)[2 * rank : 2 * rank + 2]
    parallel(inputs).square().mean().backward()
    found = {
        "rank": rank,
        "world_size": distributed.world_size(),
        "any": [distributed.any_process(flag, device) for flag in (False, rank == 1)],
        "mean": distributed.mean(float(rank), device),
        "from_first": distributed.from_first({"step": 3, "x": torch.ones(2)} if not rank else None),
        "weight": model.weight.tolist(),
        "gradient": model.weight.grad.tolist(),
    }
    found["from_first"]["x"] = found["from_first"]["x"].tolist()
    with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
        json.dump(found, file)
"""


def start_torchrun(*arguments):
    command = [sys.executable, "-m", "workflow_scripts.torchrun"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command += ["--nproc-per-node", "2", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def torchrun(*arguments):
    with start_torchrun(*arguments) as process:
        assert process.wait(timeout=600) == 0


def test_two_processes_agree(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    torchrun(tmp_path / "two.py", tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, values in enumerate(found):
        assert values["rank"] == rank
        assert values["world_size"] == 2
        assert values["any"] == [False, True]
        assert values["mean"] == 0.5
        assert values["from_first"] == {"step": 3, "x": [1, 1]}
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model(torch.arange(12.0).reshape(4, 3)).square().mean().backward()
    for values in found:
        np.testing.assert_allclose(values["weight"], model.weight.detach(), rtol=1e-6)
        np.testing.assert_allclose(values["gradient"], model.weight.grad, rtol=1e-5)


RESUMED = """
import sys
import torch
from workflow_scripts.maskdistill import distributed, training_run

with (
    distributed.process_group(torch.device("cpu")),
    training_run.training_run(sys.argv[1], {}, section="") as run,
):
    if run.writes:
        run.save({"step": 3, "network": {"weight": torch.ones(1, 1), "bias": torch.ones(1)}})
    else:  # of several nodes, only the first need have the file
        training_run.read_checkpoint = None
    network = torch.nn.Linear(1, 1)
    assert run.resume({"network": network}) == 3
    assert network.weight.item() == network.bias.item() == 1
"""


def test_the_first_process_tells_the_others_of_the_checkpoint(tmp_path):
    (tmp_path / "resumed.py").write_text(RESUMED)
    torchrun(tmp_path / "resumed.py", tmp_path)


def test_one_process_is_a_no_op(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    model = torch.nn.Linear(2, 2)
    with distributed.process_group(CPU) as device:
        assert device == CPU
        assert distributed.parallel(model, device) is model
        assert distributed.any_process(True, device) is True
        assert distributed.mean(2.5, device) == 2.5
        assert distributed.from_first("x") == "x"


IMAGES, SIDE, STEPS = 24, 32, 12
SEGMENTATION = {
    "depth": 10,
    "output_stride": 16,
    "frozen_stages": 0,
    "atrous_rates": [1],
    "head_width": 16,
    "epochs": STEPS // 2,  # of two steps each
    "batch_size": 16,
    "learning_rate": 0.05,
    "learning_rate_milestones": [3],
    "crop_size": SIDE,
    "scale": [1, 1],
    "hardest_fraction": 1.0,
}
MASK_RCNN = {
    "depth": 10,
    "weights": None,
    "frozen_stages": 0,
    "norm": "group",
    "roi_size": 4,
    "anchor_sizes": [12, 20],
    "iterations": STEPS,
    "batch_size": 16,
    "train_sides": [SIDE],
    "proposals": 8,
    "sampled_proposals": 4,
    "sampled_anchors": 32,
    "learning_rate": 0.003,
    "gradient_clip": 1.0,
    "warmup_iterations": 2,
}


def write_scenes(folder, order):
    """A bright rectangle an image: label maps, and pseudo-labels in COCO's format."""
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


def command_line(program, folder, **changes):
    """Train on the scenes of a folder; `changes` are those of the settings of Mask R-CNN."""
    if program is train_segmentation:
        options = ["--label-maps", folder / "label_maps.parquet"]
        settings = {"segmentation": SEGMENTATION, "clustering": {"clusters": 1}}
    else:
        options = ["--pseudo-labels", folder / "pseudo_labels.json"]
        settings = {"mask_rcnn": MASK_RCNN | changes}
    options += ["--root", folder, "--work-dir", folder / "work", "--model", folder / "model.pt"]
    options += ["--history", folder / "history.csv", "--seed", 0, "--device", "cpu"]
    return list(map(str, [*options, "--settings", json.dumps(settings), "--workers", 0]))


@pytest.mark.parametrize("program", [train_segmentation, train_mask_rcnn])
def test_1_x_16_and_2_x_8_agree_within_the_noise_of_data_order(tmp_path, program):
    orders = {"one": range(IMAGES), "two": range(IMAGES)}
    orders["another order"] = np.random.default_rng(0).permutation(IMAGES).tolist()
    curves = {}
    for name, order in orders.items():
        folder = tmp_path / name
        folder.mkdir()
        write_scenes(folder, order)
        arguments = command_line(program, folder)
        if name == "two":
            torchrun("-m", program.__name__, *arguments)
        else:
            program.main(arguments)
        curves[name] = np.loadtxt(
            folder / "history.csv", delimiter=",", skiprows=1, usecols=range(2)
        )
        # As many steps: the batch is shared, not doubled.
        assert curves[name][:, 0].tolist() == list(range(1, STEPS + 1))
    one, two, other = (curve[:, 1] for curve in curves.values())
    # The initial weights are the same, and so is the first batch.
    assert two[0] == pytest.approx(one[0], rel=0.05)
    distance, noise = np.abs(two - one).mean(), np.abs(other - one).mean()
    print(f"{program.__name__}: mean distance {distance:.4f}, noise {noise:.4f}", one, two, other)
    assert distance < 2 * noise
    assert two[-3:].mean() < 0.95 * two[0]
    (run,) = (tmp_path / "two" / "work").iterdir()  # the first process alone writes
    assert {path.name for path in run.iterdir()} >= {"last.pt", "history.jsonl"}


def test_sigterm_reaches_the_processes_and_leaves_a_checkpoint(tmp_path):
    write_scenes(tmp_path, range(4))
    arguments = command_line(train_mask_rcnn, tmp_path, iterations=100, batch_size=2)
    arguments[arguments.index("--workers") + 1] = "2"  # one of each process
    with start_torchrun("-m", train_mask_rcnn.__name__, *arguments) as process:
        while not (started := list(tmp_path.glob("work/*/history.jsonl"))):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)  # all of them at once, as SLURM does
        assert process.wait(timeout=300) != 0
    checkpoint = torch.load(started[0].parent / "last.pt", weights_only=True)
    assert 0 < checkpoint["step"] < 100
    assert not (tmp_path / "model.pt").exists()
    # Goes on from there, with as many processes as there are now.
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
    # The pipe closes when the last process that writes into it has ended.
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        while not (started := list(tmp_path.glob("work/*/history.jsonl"))):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        assert select.select([process.stdout], [], [], 300)[0]
        assert process.stdout.read() == b""
    checkpoint = torch.load(started[0].parent / "last.pt", weights_only=True)
    assert 0 < checkpoint["step"] < 300
    assert not (tmp_path / "model.pt").exists()


def test_workers_are_shared_by_the_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert [distributed.share_of(workers) for workers in (0, 1, 3, 4)] == [0, 1, 1, 2]


def test_more_processes_than_gpus_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "2 training processes, but 1 GPUs here; set runtime.gpus"
    with (
        pytest.raises(InputError, match=message),
        distributed.process_group(torch.device("cuda")),
    ):
        pass
