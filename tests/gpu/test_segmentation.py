"""DeepLab-v3: trainings on CPU and GPU, predictions, CRF; and predictions of `vit_head`."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.needs("filelock")]
COUNT = 24
# Bounds for a training of twenty steps: relative error of the mean of the last five losses,
# compared with float32 on the CPU. Rounding errors grow with every step; the bounds are estimates.
LOSSES = {"float32": 0.05, "float16": 0.1, "bfloat16": 0.2}
PIXELS = {"float32": 0.999, "float16": 0.99, "bfloat16": 0.95}


@pytest.mark.needs("pycocotools")
def test_twenty_steps_in_float64(device, judge, tmp_path):
    """Compare with the CPU: a training on the device, and changes of device after eight steps."""
    from tests.gpu import trainings
    from workflow_scripts import train_segmentation as program

    ours, changes = str(device), {"epochs": 10}
    reference = trainings.train(program, tmp_path / "cpu", "cpu", **changes)
    found = trainings.train(program, tmp_path / "device", ours, **changes)
    trainings.compare(judge, "DeepLab, float64", reference, found)
    for number, (first, then) in enumerate([("cpu", ours), (ours, "cpu")]):
        folder = tmp_path / f"moved-{number}"
        folder = trainings.train_on_two(program, folder, first, then, **changes)
        trainings.compare(judge, f"DeepLab, float64, {first} then {then}", reference, folder)


def train(folder, name, device, precision):
    """Train twenty steps with the demo's settings; returns the folder of model and history."""
    from tests.gpu import data

    own = data.settings()["segmentation"] | {"precision": precision, "epochs": 5, "batch_size": 6}
    output = folder / name
    data.run(
        "train_segmentation",
        {"segmentation": own, "clustering": {"clusters": data.CLUSTERS}},
        label_maps=folder / "label_maps.parquet",
        root=folder,
        work_dir=output / "work",
        model=output / "model.pt",
        history=output / "history.csv",
        seed=0,
        device=device,
        workers=2,
    )
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.gpu import data

    return data.write(tmp_path_factory.mktemp("segmentation"), COUNT)


@pytest.fixture(scope="module")
def trained(folder):
    """A training of twenty steps in float32 on the CPU."""
    return train(folder, "trained", "cpu", "float32")


@pytest.mark.slow_in_half
@pytest.mark.parametrize("precision", LOSSES)
def test_losses(device, folder, trained, judge, precision):
    from tests.gpu import trainings

    found = trainings.losses(train(folder, precision, device, precision))
    reference = trainings.losses(trained)
    first = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[precision]
    error = abs(found[0] / reference[0] - 1)
    judge(f"DeepLab, {precision}: relative error of the first loss", error, at_most=first)
    error = abs(found[-5:].mean() / reference[-5:].mean() - 1)
    what = f"DeepLab, {precision}: relative error of the mean of losses 16 to 20"
    judge(what, error, at_most=LOSSES[precision])


def predict(program, folder, trained, device, precision, **sections):
    """Label maps by image; a new process predicts, because the CRF forks before a GPU is used."""
    import numpy as np

    from tests.gpu import data
    from workflow_scripts.maskdistill.files import label_maps, shards
    from workflow_scripts.maskdistill.repository import REPOSITORY

    output = folder / f"{program}-{device}-{precision}.parquet"
    command = [sys.executable, "-m", f"workflow_scripts.{program}", "--root", folder]
    command += ["--images", folder / "images.parquet", "--model", trained / "model.pt"]
    command += ["--output", output, "--device", device, "--workers", 2, "--batch-size", 8]
    predictions = data.settings()["predictions"] | {"precision": precision}
    command += ["--settings", json.dumps({"predictions": predictions, **sections})]
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = shards.read_rows(output)
    return np.concatenate([label_maps.decode_png(row["image"]["bytes"]).ravel() for row in rows])


@pytest.mark.slow_in_half
@pytest.mark.parametrize("precision", PIXELS)
def test_predictions(device, folder, trained, judge, precision):
    import numpy as np

    reference = predict("predict_segmentation", folder, trained, "cpu", "float32")
    assert len(np.unique(reference)) > 1
    found = predict("predict_segmentation", folder, trained, device, precision)
    what = f"DeepLab, {precision}: share of {len(found)} pixels with the same label"
    judge(what, (found == reference).mean(), at_least=PIXELS[precision])


@pytest.mark.parametrize("precision", PIXELS)
def test_predictions_of_vit_head(device, folder, judge, tmp_path, precision):
    """A decoder with random weights, on the demo's transformer."""
    import numpy as np
    import torch

    from tests.gpu import data
    from workflow_scripts.maskdistill.segmentation.token_training import build_vit_head
    from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
    from workflow_scripts.maskdistill.torch_tools.training_run import publish

    settings = FeatureSettings.read(data.settings()["features"])
    torch.manual_seed(0)
    content = {
        "model": "vit_head",
        "backbone": {
            "name": settings.backbone,
            "options": settings.backbone_options,
            "shorter_side": settings.shorter_side,
            "longer_side": settings.longer_side,
        },
        "state_dict": build_vit_head(data.CLUSTERS, settings, dropout=0).state_dict(),
        "settings": {"dropout": 0},
        "clusters": data.CLUSTERS,
    }
    publish(content, tmp_path / "model.pt")
    reference, found = (
        predict("predict_segmentation", folder, tmp_path, *where)
        for where in (("cpu", "float32"), (device, precision))
    )
    assert len(np.unique(reference)) > 1
    what = f"vit_head, {precision}: share of {len(found)} pixels with the same label"
    judge(what, (found == reference).mean(), at_least=PIXELS[precision])


@pytest.mark.needs("pydensecrf")
def test_crf(device, folder, trained, judge):
    from tests.gpu import data

    crf = data.settings()["crf"]
    reference, found = (
        predict("refine_predictions", folder, trained, where, "float32", crf=crf)
        for where in ("cpu", device)
    )
    judge("CRF: share of pixels with the same label", (found == reference).mean(), at_least=0.999)
