import csv
import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill import masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.mask_rcnn import torchvision_engine as engine
from workflow_scripts.maskdistill.mask_rcnn import training
from workflow_scripts.maskdistill.mask_rcnn.engines import Runtime, load_predictor
from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.mask_rcnn.settings import PredictionSettings, training_settings
from workflow_scripts.maskdistill.resnet import build_resnet
from workflow_scripts.maskdistill.training_run import Interrupted, TrainingRun

CPU = torch.device("cpu")
TINY = {
    "depth": 18,
    "weights": None,
    "frozen_stages": 0,
    "norm": "group",
    "fpn": True,
    "fpn_channels": 32,
    "anchor_sizes": [8, 16, 24, 32, 48],
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


def fit(shapes, folder, *, workers=0, checkpoint_every=100, **settings):
    path, root = shapes
    engine.fit(
        path,
        root,
        settings=training_settings(TINY | settings),
        seed=5,
        work_dir=folder / "runs",
        model=folder / "model.pt",
        history=folder / "history.csv",
        runtime=Runtime(device=CPU, workers=workers, checkpoint_every=checkpoint_every),
    )
    return torch.load(folder / "model.pt", weights_only=True)


def assert_same_weights(a, b):
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name


def losses(folder):
    with open(folder / "history.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def uninterrupted(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return fit(shapes, folder), folder


def test_sigterm_saves_and_the_resumed_training_ends_the_same(
    shapes, uninterrupted, tmp_path, monkeypatch
):
    record = TrainingRun.record

    def terminate_at_two(run, *, step, **values):
        record(run, step=step, **values)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "record", terminate_at_two)
    with pytest.raises(Interrupted):
        fit(shapes, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "model.pt").exists()

    # Other runtime options, too: they change nothing.
    resumed = fit(shapes, tmp_path, workers=2, checkpoint_every=1)

    model, folder = uninterrupted
    assert_same_weights(resumed, model)
    assert losses(tmp_path) == losses(folder)


def test_a_killed_training_goes_on_from_its_last_checkpoint(
    shapes, uninterrupted, tmp_path, monkeypatch
):
    record, steps = TrainingRun.record, []

    def die_at_four(run, *, step, **values):
        record(run, step=step, **values)
        steps.append(step)
        if steps == [1, 2, 3, 4]:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "record", die_at_four)
    with pytest.raises(KeyboardInterrupt):
        fit(shapes, tmp_path, checkpoint_every=2)
    resumed = fit(shapes, tmp_path, checkpoint_every=2)

    model, folder = uninterrupted
    assert steps == [1, 2, 3, 4, 3, 4]
    assert_same_weights(resumed, model)
    assert losses(tmp_path) == losses(folder)


def test_a_finished_training_is_only_published_again(shapes, uninterrupted, monkeypatch):
    model, folder = uninterrupted
    (folder / "model.pt").unlink()
    monkeypatch.setattr(TrainingRun, "record", lambda *_, **__: pytest.fail("trained again"))

    assert_same_weights(fit(shapes, folder), model)


def test_the_loss_falls_and_objects_are_found(shapes, tmp_path):
    fit(
        shapes,
        tmp_path,
        iterations=50,
        learning_rate_steps=[45],
        batch_size=4,
        train_sides=[48],
        gradient_clip=5.0,
        warmup_iterations=10,
    )
    curve = losses(tmp_path)
    predictor = load_predictor(
        tmp_path / "model.pt",
        settings=PredictionSettings(test_side=48, test_proposals=20, candidates_per_image=3),
        device=CPU,
    )
    path, root = shapes
    overlaps, right = [], []
    for annotation in json.loads(path.read_text())["annotations"]:
        image = np.asarray(Image.open(root / f"{annotation['image_id']}.png"))
        best = predictor.predict([image])[0][0]
        found = masks.decode(best.mask.rle_counts, 48, 56)
        true = masks.decode(annotation["segmentation"]["counts"].encode(), 48, 56)
        overlaps.append((found & true).sum() / (found | true).sum())
        right.append(best.cluster == annotation["category_id"])

    assert len(curve) == 50
    assert np.mean(curve[-10:]) < 0.5 * np.mean(curve[:5])
    assert np.mean(overlaps) > 0.6
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "module.base_encoder."])
def test_initial_weights_are_read_and_frozen_stages_stay(shapes, tmp_path, prefix):
    torch.manual_seed(1)
    resnet = build_resnet(18).state_dict()
    state = {prefix + name: value for name, value in resnet.items()}
    if prefix:  # MoCo's projector goes along
        state[prefix + "fc.0.weight"] = torch.zeros(4, 4)
    torch.save({"state_dict": state}, tmp_path / "moco.pth")

    model = fit(
        shapes,
        tmp_path,
        weights=str(tmp_path / "moco.pth"),
        norm="batch",
        frozen_stages=2,
        iterations=1,
        warmup_iterations=0,
    )["state_dict"]

    frozen, trained = ("conv1.", "bn1.", "layer1."), ("layer2.", "layer3.", "layer4.")
    for name, value in resnet.items():
        same = torch.equal(model[f"backbone.body.{name}"], value)
        if name.startswith(frozen):
            assert same, name
        elif name.startswith(trained) and name.endswith("conv1.weight"):
            difference = (model[f"backbone.body.{name}"] - value).abs().max()
            assert 0 < difference < 0.01, name


def test_a_fingerprint_names_weights_by_content(shapes, tmp_path):
    def digest(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        settings = training_settings(TINY | {"weights": str(path)})
        return training.fingerprint(shapes[0], settings=settings, seed=0)

    assert digest("a.pth", b"1") == digest("b.pth", b"1")
    assert digest("a.pth", b"1") != digest("a.pth", b"2")


def test_candidates_are_in_pixels_of_the_image_whatever_the_test_side(shapes, uninterrupted):
    _, folder = uninterrupted
    image = np.asarray(Image.open(shapes[1] / "1.png"))
    settings = PredictionSettings(
        test_side=96, test_proposals=20, candidates_per_image=4, score_floor=0.0
    )
    predictor = load_predictor(folder / "model.pt", settings=settings, device=CPU)

    found, again = predictor.predict([image, image])

    assert predictor.predict([]) == []
    assert 0 < len(found) <= 4
    assert [c.cluster for c in found] == [c.cluster for c in again]
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    for candidate in found:
        x, y, width, height = candidate.box
        assert candidate.cluster in (1, 2)
        assert 0 <= x < x + width <= 56 + 1e-3
        assert 0 <= y < y + height <= 48 + 1e-3
        mask = candidate.mask
        assert (mask.height, mask.width) == (48, 56)
        assert mask.area > 0
        assert x - 0.5 <= mask.x <= mask.x + mask.box_width <= x + width + 0.5
        assert y - 0.5 <= mask.y <= mask.y + mask.box_height <= y + height + 0.5


def test_learning_rate_is_warmed_up_and_lowered_at_the_steps():
    settings = training_settings({"weights": "moco.pth"})

    rates = [training.learning_rate(settings, s) for s in (0, 49, 99, 19_999, 20_000, 22_000)]

    assert rates == pytest.approx([0.0002, 0.01, 0.02, 0.02, 0.002, 0.0002])


def test_normalisation_is_spared_weight_decay():
    settings = training_settings(TINY | {"optimizer": "sgd", "weight_decay": 0.1})
    network = build_mask_rcnn(settings, 2)

    decayed, spared = training.build_optimizer(network, settings).param_groups

    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    norms = [
        p for m in network.modules() if isinstance(m, torch.nn.GroupNorm) for p in [*m.parameters()]
    ]
    assert {id(p) for p in spared["params"]} == {id(p) for p in norms}
    assert len(decayed["params"]) + len(norms) == len(list(network.parameters()))


def test_a_diverging_training_stops_with_its_checkpoint(shapes, tmp_path):
    with pytest.raises(InputError, match="lower the learning rate"):
        fit(
            shapes,
            tmp_path,
            optimizer="sgd",
            learning_rate=1e12,
            warmup_iterations=0,
            checkpoint_every=1,
        )
    assert not (tmp_path / "model.pt").exists()
    assert len(list((tmp_path / "runs").glob("*/last.pt"))) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanished_is_an_error_of_one_line(shapes, tmp_path, workers):
    path, _ = shapes

    with pytest.raises(InputError, match=r"png: missing file") as error:
        fit((path, tmp_path / "elsewhere"), tmp_path, workers=workers)

    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)
