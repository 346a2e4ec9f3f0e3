"""The number of processes changes only the order of floating-point sums in a training."""

import numpy as np
import pytest
import torch

from tests.maskdistill.torch_tools import global_batch, in_float64
from tests.maskdistill.torch_tools.launching import (
    PYRAMID,
    SEGMENTATION,
    UNEVEN_MASK_RCNN,
    command_line,
    run_processes,
    write_uneven_scenes,
)
from workflow_scripts import train_mask_rcnn, train_segmentation
from workflow_scripts.maskdistill.segmentation.labelled_images import LabelledImages
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.sampling import BatchPlan


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Results of `global_batch` with one process, and a list of the results of two processes."""
    folders = {1: tmp_path_factory.mktemp("one"), 2: tmp_path_factory.mktemp("two")}
    for processes, folder in folders.items():
        run_processes(global_batch.__name__, folder, processes=processes)
    (whole,), two = (
        [torch.load(folder / f"{rank}.pt") for rank in range(processes)]
        for processes, folder in folders.items()
    )
    return whole, two


def assert_same(parts, prefix):
    """Compare all cases whose names begin with `prefix`; rounding in float64 is below 1e-9."""
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
    # If losses are equal, the first pixels are taken.
    (gradient,) = whole["loss, even, tied"]["parts"]
    chosen = gradient.abs().sum(1).flatten() > 0
    assert chosen[:36].all()
    assert not chosen[36:].any()


def test_draws_depend_on_the_place_in_the_global_batch(parts):
    assert_same(parts, "drawn")
    whole, _ = parts
    draws = whole["drawn"]["parts"]
    assert len({bytes(draw.numpy()) for draw in draws}) == len(draws) == 12  # all draws differ
    assert len({bytes(image.numpy()) for image in draws[0]}) == global_batch.IMAGES


def test_batch_statistics_are_those_of_the_global_batch(parts):
    assert_same(parts, "batch normalisation, ")


def test_losses_of_mask_rcnn_are_means_over_the_global_batch(parts):
    assert_same(parts, "Mask R-CNN ")


LINEAR_PROBE = """
import sys
from pathlib import Path
import torch
from workflow_scripts.maskdistill.segmentation import linear_probe
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

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
        settings=LinearProbeSettings(
            epochs=3, batch_size=int(batch_size), learning_rate=float(learning_rate)
        ),
        seed=0,
        files=TrainingFiles(folder / "probe", folder / "probe.pt", folder / "probe.csv", {}),
        device=torch.device("cpu"),
    )
"""


def assert_same_training(*folders, model="model.pt", history="history.csv"):
    """Compare the files that trainings of six steps with one and with two processes wrote."""
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
    """Train with one and with two processes in float64; returns the folders of both trainings."""
    folders = []
    for processes in (1, 2):
        folders.append(tmp_path / str(processes))
        folders[-1].mkdir()
        write_uneven_scenes(folders[-1])
        arguments = command_line(program, folders[-1], **changes)
        run_processes(in_float64.__name__, program.__name__, *arguments, processes=processes)
    return folders


def test_processes_do_not_change_deeplab_nor_its_linear_probe(tmp_path):
    one, two = trained(tmp_path, train_segmentation)
    assert_same_training(one, two)
    # The data contain the difficult case: in some steps one process has no labelled pixel.
    labelled = labelled_pixels(one, SEGMENTATION).reshape(6, 2, 2).sum(2)
    assert ((labelled == 0).any(1) & labelled.any(1)).any()
    (run,) = (two / "work").iterdir()  # only the first process writes
    assert {path.name for path in run.iterdir()} >= {"last.pt", "history.jsonl"}

    (tmp_path / "probing.py").write_text(LINEAR_PROBE)
    for processes, folder in ((1, one), (2, two)):
        (folder / "segmentation.pt").write_bytes((one / "model.pt").read_bytes())
        arguments = ["probing", folder, SEGMENTATION, 4, 0.1]
        run_processes(in_float64.__name__, *arguments, processes=processes, python_path=tmp_path)
    assert_same_training(one, two, model="probe.pt", history="probe.csv")


def labelled_pixels(folder, settings):
    """Number of labelled pixels in every image of every step of a training."""
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
        run_processes(train_segmentation.__name__, *arguments, processes=processes)
        losses.append(np.loadtxt(folder / "history.csv", delimiter=",", skiprows=1)[0, 1])
    # Rounding may change which pixels are the hardest, but this changes their mean loss little.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
