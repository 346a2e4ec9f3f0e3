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

from tests.maskdistill.torch_tools import global_batch
from workflow_scripts import train_mask_rcnn, train_segmentation
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, masks, shards
from workflow_scripts.maskdistill.segmentation.labelled_images import LabelledImages
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.sampling import BatchPlan

CPU = torch.device("cpu")

TWO_PROCESSES = """
import json, sys
import torch
from workflow_scripts.maskdistill.torch_tools import distributed

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
        "means": distributed.means([rank, 2.0], device),
        "mean_counts": distributed.mean_counts([3 * rank, 0], device),
        "largest": distributed.largest([rank, 5 - rank], device),
        "gathered": [v.tolist() for v in distributed.gather(torch.arange(3 * rank))],
        "from_first": distributed.from_first({"step": 3, "x": torch.ones(2)} if not rank else None),
        "weight": model.weight.tolist(),
        "gradient": model.weight.grad.tolist(),
    }
    found["from_first"]["x"] = found["from_first"]["x"].tolist()
    with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
        json.dump(found, file)
"""


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


def test_two_processes_agree(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    torchrun(tmp_path / "two.py", tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, values in enumerate(found):
        assert values["rank"] == rank
        assert values["world_size"] == 2
        assert values["any"] == [False, True]
        assert values["means"] == [0.5, 2]
        assert values["mean_counts"] == [1.5, 1]
        assert values["largest"] == [1, 5]
        assert values["gathered"] == [[], [0, 1, 2]]
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
from workflow_scripts.maskdistill.torch_tools import distributed, training_run

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
        assert distributed.means([2.5], device) == [2.5]
        assert distributed.mean_counts([3, 0], device) == [3, 1]
        assert distributed.largest([4, 2], device) == [4, 2]
        assert distributed.gather(torch.arange(2))[0].tolist() == [0, 1]
        assert distributed.provenance(device) == {"device": "cpu", "processes": 1}
        assert distributed.from_first("x") == "x"


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


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Results of `global_batch` from one process, and from each of two."""
    folders = {1: tmp_path_factory.mktemp("one"), 2: tmp_path_factory.mktemp("two")}
    for processes, folder in folders.items():
        torchrun("-m", "tests.maskdistill.torch_tools.global_batch", folder, processes=processes)
    (whole,), two = (
        [torch.load(folder / f"{rank}.pt") for rank in range(processes)]
        for processes, folder in folders.items()
    )
    return whole, two


def assert_same(parts, prefix):
    """All cases of that name; computed in float64, where 1e-9 is rounding and nothing else."""
    whole, two = parts
    names = [name for name in whole if name.startswith(prefix)]
    assert names
    tolerance = {"rtol": 1e-9, "atol": 1e-12}
    for name in names:
        for number, expected in enumerate(whole[name]["common"]):
            for found in two:
                np.testing.assert_allclose(
                    found[name]["common"][number], expected, **tolerance, err_msg=name
                )
        for number, expected in enumerate(whole[name]["parts"]):
            found = torch.cat([found[name]["parts"][number] for found in two])
            np.testing.assert_allclose(found, expected, **tolerance, err_msg=name)


def test_hardest_pixels_are_those_of_the_global_batch(parts):
    assert_same(parts, "loss, ")
    whole, _ = parts
    for name, labelled in global_batch.LABELLED.items():
        count = round(0.2 * sum(labelled))
        (gradient,) = whole[f"loss, {name}, 0.2"]["parts"]
        assert (gradient.abs().sum(1) > 0).sum() == count
    # Of equal losses the first are taken.
    (gradient,) = whole["loss, even, tied"]["parts"]
    chosen = gradient.abs().sum(1).flatten() > 0
    assert chosen[:36].all()
    assert not chosen[36:].any()


def test_draws_depend_on_the_place_in_the_global_batch(parts):
    assert_same(parts, "drawn")
    whole, _ = parts
    draws = whole["drawn"]["parts"]
    assert len({bytes(draw.numpy()) for draw in draws}) == len(draws) == 12  # no draw comes twice
    assert len({bytes(image.numpy()) for image in draws[0]}) == global_batch.IMAGES


def test_batch_statistics_are_those_of_the_global_batch(parts):
    assert_same(parts, "batch normalisation, ")


def test_losses_of_mask_rcnn_are_means_over_the_global_batch(parts):
    assert_same(parts, "Mask R-CNN ")


def write_uneven_scenes(folder):
    """Six images of different sizes; one to three objects, and labels in some corner only."""
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


UNEVEN_MASK_RCNN = MASK_RCNN | {
    "norm": "batch",
    "iterations": 6,
    "train_sides": [40, 56],
    "sampled_proposals": 8,
    "gradient_clip": 0.5,
    "learning_rate": 0.01,
}
PYRAMID = {"fpn": True, "fpn_channels": 32, "anchor_sizes": [8, 12, 16, 24, 32]}
# In float64 two trainings differ by the order of sums of 16 digits: nothing comes near enough to a
# threshold (of NMS, of the hardest pixels, of ReLU) to fall on its other side.
IN_FLOAT64 = """
import importlib, sys
import torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""
LINEAR_PROBE = """
import sys
from pathlib import Path
import torch
from workflow_scripts.maskdistill.segmentation import linear_probe
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings

def main(arguments):
    folder, segmentation, batch_size, learning_rate = arguments
    folder = Path(folder)
    linear_probe.train(
        [folder / "label_maps.parquet"],
        folder,
        classes=2,
        segmentation_model=folder / "segmentation.pt",
        views={
            name: getattr(SegmentationSettings.read(eval(segmentation)), name)
            for name in linear_probe.VIEWS
        },
        precision="float32",
        record={},
        settings=LinearProbeSettings(
            epochs=3, batch_size=int(batch_size), learning_rate=float(learning_rate)
        ),
        seed=0,
        work_dir=folder / "probe",
        model_path=folder / "probe.pt",
        history_path=folder / "probe.csv",
        device=torch.device("cpu"),
    )
"""


def assert_same_training(*folders, model="model.pt", history="history.csv"):
    """Compare what trainings of six steps by one and by two processes wrote."""
    one, two = (np.loadtxt(folder / history, delimiter=",", skiprows=1) for folder in folders)
    assert one.shape == two.shape
    assert len(one) == 6
    np.testing.assert_allclose(two[0], one[0], rtol=1e-11)
    np.testing.assert_allclose(two, one, rtol=1e-8, atol=1e-10)
    one, two = (torch.load(folder / model) for folder in folders)
    assert (one["provenance"]["device"], one["provenance"]["processes"]) == ("cpu", 1)
    assert (two["provenance"]["device"], two["provenance"]["processes"]) == ("cpu", 2)
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        scale = float(value.abs().max())
        np.testing.assert_allclose(
            two["state_dict"][name], value, rtol=0, atol=1e-8 * scale, err_msg=name
        )


def trained(tmp_path, program, **changes):
    """Folders of trainings by one and by two processes, in float64."""
    (tmp_path / "in_float64.py").write_text(IN_FLOAT64)
    folders = []
    for processes in (1, 2):
        folders.append(tmp_path / str(processes))
        folders[-1].mkdir()
        write_uneven_scenes(folders[-1])
        arguments = command_line(program, folders[-1], **changes)
        torchrun(tmp_path / "in_float64.py", program.__name__, *arguments, processes=processes)
    return folders


def test_processes_do_not_change_deeplab_nor_its_linear_probe(tmp_path):
    one, two = trained(tmp_path, train_segmentation)
    assert_same_training(one, two)
    # What makes it hard: in some steps one of the two processes has no labelled pixel.
    labelled = labelled_pixels(one, SEGMENTATION).reshape(6, 2, 2).sum(2)
    assert ((labelled == 0).any(1) & labelled.any(1)).any()
    (run,) = (two / "work").iterdir()  # the first process alone writes
    assert {path.name for path in run.iterdir()} >= {"last.pt", "history.jsonl"}

    (tmp_path / "probing.py").write_text(LINEAR_PROBE)
    for processes, folder in ((1, one), (2, two)):
        (folder / "segmentation.pt").write_bytes((one / "model.pt").read_bytes())
        arguments = ["probing", folder, SEGMENTATION, 4, 0.1]
        torchrun(tmp_path / "in_float64.py", *arguments, processes=processes)
    assert_same_training(one, two, model="probe.pt", history="probe.csv")


def labelled_pixels(folder, settings):
    """Labelled pixels of every place in the plan of a training."""
    settings = SegmentationSettings.read(settings)
    data = LabelledImages(
        [folder / "label_maps.parquet"], folder, clusters=2, settings=settings, seed=0
    )
    steps = BatchPlan(len(data), settings.batch_size, seed=0, start=0, stop=6)
    return np.array([int((data[place][1] >= 0).sum()) for batch in steps for place in batch])


@pytest.mark.parametrize("changes", [{}, PYRAMID], ids=["c4", "fpn"])
def test_processes_do_not_change_mask_rcnn(tmp_path, changes):
    assert_same_training(*trained(tmp_path, train_mask_rcnn, **UNEVEN_MASK_RCNN | changes))


def test_the_first_loss_of_deeplab_is_the_same_in_float32(tmp_path):
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        write_uneven_scenes(folder)
        arguments = command_line(train_segmentation, folder, epochs=1)
        torchrun("-m", train_segmentation.__name__, *arguments, processes=processes)
        losses.append(np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)[0, 1])
    # The mean over the hardest pixels is continuous: no rounding makes it jump.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


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
