"""Mask R-CNN: trainings on CPU and GPU, trainings that change between them, and candidates."""

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.needs("pycocotools", "filelock")]
COUNT = 24
# Bounds on the losses as in test_segmentation, but wider: which regions are sampled depends on the
# scores of proposals, so that rounding can change a whole sample.
LOSSES = {"float32": 0.2, "float16": 0.3, "bfloat16": 0.4}
CANDIDATES = {"float32": 0.97, "float16": 0.9, "bfloat16": 0.7}


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_twenty_steps_in_float64(device, judge, tmp_path, kind):
    """Compare with the CPU: a training on the device, and changes of device after eight steps."""
    from tests.gpu import trainings
    from tests.maskdistill.torch_tools.launching import PYRAMID, UNEVEN_MASK_RCNN
    from workflow_scripts import train_mask_rcnn as program

    ours = str(device)
    changes = (
        UNEVEN_MASK_RCNN | {"iterations": trainings.STEPS} | (PYRAMID if kind == "fpn" else {})
    )
    what = f"Mask R-CNN, {kind}, float64"
    reference = trainings.train(program, tmp_path / "cpu", "cpu", **changes)
    found = trainings.train(program, tmp_path / "device", ours, **changes)
    trainings.compare(judge, what, reference, found)
    if kind == "c4":
        for number, (first, then) in enumerate([("cpu", ours), (ours, "cpu")]):
            folder = tmp_path / f"moved-{number}"
            folder = trainings.train_on_two(program, folder, first, then, **changes)
            trainings.compare(judge, f"{what}, {first} then {then}", reference, folder)


def train(folder, name, device, precision, iterations=20):
    """Train with the demo's settings; returns the folder of model and history."""
    from tests.gpu import data

    changes = {"precision": precision, "iterations": iterations, "warmup_iterations": 5}
    output = folder / name
    data.run(
        "train_mask_rcnn",
        {"mask_rcnn": data.settings()["mask_rcnn"] | changes | {"learning_rate_steps": []}},
        pseudo_labels=folder / "pseudo_labels.json",
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

    folder = data.write(tmp_path_factory.mktemp("mask_rcnn"), COUNT)
    data.write_pseudo_labels(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def reference_losses(folder):
    """The losses of twenty steps in float32 on the CPU."""
    from tests.gpu import trainings

    return trainings.losses(train(folder, "reference", "cpu", "float32"))


@pytest.mark.slow_in_half
@pytest.mark.parametrize("precision", LOSSES)
def test_losses(device, folder, reference_losses, judge, precision):
    from tests.gpu import trainings

    found = trainings.losses(train(folder, precision, device, precision))
    first = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 0.1}[precision]
    error = abs(found[0] / reference_losses[0] - 1)
    judge(f"Mask R-CNN, {precision}: relative error of the first loss", error, at_most=first)
    error = abs(found[-5:].mean() / reference_losses[-5:].mean() - 1)
    what = f"Mask R-CNN, {precision}: relative error of the mean of losses 16 to 20"
    judge(what, error, at_most=LOSSES[precision])


@pytest.fixture(scope="module")
def trained(device, folder):
    """A model that is trained long enough to find objects, on the device under test."""
    return train(folder, "trained", device, "float32", iterations=60)


@pytest.fixture(scope="module")
def expected(folder, trained):
    return candidates(folder, trained, "cpu", "float32")


def candidates(folder, trained, device, precision):
    """Predict candidates; returns those with a score above 0.1, by image_id."""
    from tests.gpu import data
    from workflow_scripts.maskdistill.files import shards

    output = folder / f"candidates-{device}-{precision}.parquet"
    data.run(
        "predict_candidates",
        {"candidates": data.settings()["candidates"] | {"precision": precision}},
        images=folder / "images.parquet",
        root=folder,
        model=trained / "model.pt",
        output=output,
        device=device,
        workers=2,
        batch_size=8,
    )
    groups = shards.group_by_image(output)
    return {
        image_id: [row for row in rows if row["score"] is not None and row["score"] > 0.1]
        for image_id, rows in groups.items()
    }


@pytest.mark.slow_in_half
@pytest.mark.parametrize("precision", CANDIDATES)
def test_candidates(device, folder, trained, expected, judge, precision):
    """Look for each candidate of the CPU on the device: same cluster, similar mask and score."""
    from workflow_scripts.maskdistill.files import masks

    found = candidates(folder, trained, device, precision)
    assert found.keys() == expected.keys()
    tolerance = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}[precision]
    total = matched = 0
    for image_id, rows in expected.items():
        others = [(row, masks.decode_row(row)) for row in found[image_id]]
        for row in rows:
            mask = masks.decode_row(row)
            total += 1
            matched += any(
                other["cluster"] == row["cluster"]
                and abs(other["score"] - row["score"]) <= tolerance
                and (mask & pixels).sum() >= 0.95 * (mask | pixels).sum()
                for other, pixels in others
            )
    assert total >= COUNT / 2
    what = f"Mask R-CNN, {precision}: share of {total} candidates that are found again"
    judge(what, matched / total, at_least=CANDIDATES[precision])
