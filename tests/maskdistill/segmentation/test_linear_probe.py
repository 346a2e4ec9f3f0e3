"""The linear probe, on images of one colour, whose classes are known."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.segmentation import learning, linear_probe
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.segmentation.label_map_prediction import load_predictor
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.training_run import (
    Interrupted,
    TrainingFiles,
    TrainingRun,
)

CPU = torch.device("cpu")
SEGMENTATION = SegmentationSettings(
    depth=10,
    output_stride=8,
    frozen_stages=0,
    atrous_rates=(1,),
    head_width=16,
    crop_size=32,
    scale=(1.0, 1.0),
    rotation=0.0,
    flip=False,
)
VIEWS = {name: getattr(SEGMENTATION, name) for name in linear_probe.VIEWS}
COLOURS = np.array([[90, 90, 90], [220, 30, 30], [30, 220, 30]], np.uint8)


@pytest.fixture
def model_file(tmp_path):
    """An untrained segmentation model of 5 clusters."""
    torch.manual_seed(0)
    architecture = {k: getattr(SEGMENTATION, k) for k in learning.ARCHITECTURE}
    model = build_deeplab(5, **architecture)
    model.head[2].weight.data.fill_(100)  # otherwise untrained features are tiny
    path = tmp_path / "segmentation.pt"
    state = {"state_dict": model.state_dict(), "clusters": 5}
    torch.save(state | {"settings": SEGMENTATION.plain()}, path)
    return path


def write_images(root, *, count=6, shuffle=False):
    """Images of one colour each; the class is the colour, or random with `shuffle`."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        Image.fromarray(np.broadcast_to(COLOURS[number % 3], (32, 32, 3))).save(
            root / f"{number}.png"
        )
        class_id = rng.integers(0, 3) if shuffle else number % 3
        rows.append(label_maps.row(number, f"{number}.png", np.full((32, 32), class_id, np.uint8)))
    path = root / "ground_truth.parquet"
    shards.write_table(path, "label_maps", rows, {})
    return path


def train(shard, model_file, output="out", *, precision="float32", **changes):
    root = shard.parent
    settings = {"epochs": 100, "batch_size": 6, "learning_rate": 0.5} | changes
    settings = {"learning_rate_milestones": (80,)} | settings
    linear_probe.train(
        [shard],
        root,
        classes=2,
        segmentation_model=model_file,
        settings=LinearProbeSettings.read(settings),
        views=VIEWS,
        precision=precision,
        seed=1,
        files=TrainingFiles(
            *(root / output / name for name in ("work", "model.pt", "history.csv")), {}
        ),
        device=CPU,
    )
    return root / output / "model.pt"


def labels_of(model_path, root, numbers):
    rows = [{"file_name": f"{n}.png", "height": 32, "width": 32, "n": n} for n in numbers]
    predictor = load_predictor(model_path, CPU)
    found = predictor.predict(rows, root, batch_size=4, workers=1)
    return {prediction.row["n"]: prediction.labels() for prediction in found}


def test_classes_that_the_features_tell_apart_are_found(tmp_path, model_file):
    found = labels_of(train(write_images(tmp_path), model_file), tmp_path, range(3))
    # Near the border, features also depend on the position; 0.93 of the pixels were right.
    for number, labels in found.items():
        assert (labels == number).mean() > 0.7


def test_only_the_classifier_learns(tmp_path, model_file):
    path = train(write_images(tmp_path), model_file, epochs=2)
    before = torch.load(model_file, weights_only=True)["state_dict"]
    content = torch.load(path, weights_only=True)
    assert content["clusters"] == 2
    changed = [k for k, v in content["state_dict"].items() if not torch.equal(v, before[k])]
    assert changed == ["head.4.weight", "head.4.bias"]
    assert content["state_dict"]["head.4.weight"].shape == (3, 16, 1, 1)


def test_the_loss_reaches_that_of_logistic_regression(tmp_path, model_file):
    """Labels are random; logistic regression finds the smallest loss of a linear classifier."""
    shard = write_images(tmp_path, shuffle=True)
    path = train(
        shard,
        model_file,
        epochs=150,
        learning_rate=0.3,
        learning_rate_milestones=[120],
        weight_decay=0.0,
    )
    model = load_predictor(path, CPU).model
    features = {}
    model.head[-1].register_forward_pre_hook(lambda _, inputs: features.update(x=inputs[0]))
    images = np.stack([np.broadcast_to(COLOURS[n % 3], (32, 32, 3)) for n in range(6)])
    truth = np.array([int(m[0, 0]) for _, _, m in label_maps.read_shard(shard)])
    with torch.inference_mode():
        logits = model(learning.normalize(torch.from_numpy(images)))
    x = features["x"].permute(0, 2, 3, 1).reshape(-1, 16).numpy()
    y = truth.repeat(len(x) // 6)
    ours = F.cross_entropy(logits.permute(0, 2, 3, 1).reshape(-1, 3), torch.from_numpy(y)).item()
    best = LogisticRegression(C=1e6, max_iter=5000).fit(x, y).predict_proba(x)
    optimum = -np.log(best[np.arange(len(y)), y]).mean()
    chance = np.log(3)
    assert optimum - 1e-3 <= ours <= optimum + 0.02 < chance


def test_an_interrupted_training_goes_on_where_it_was(tmp_path, model_file, monkeypatch):
    shard = write_images(tmp_path)
    whole = train(shard, model_file, "whole", epochs=4, batch_size=2)
    record = TrainingRun.record

    def stop_at_five(run, *, step, **values):
        record(run, step=step, **values)
        if step == 5:
            run.request_stop()

    monkeypatch.setattr(TrainingRun, "record", stop_at_five)
    with pytest.raises(Interrupted):
        train(shard, model_file, "broken", epochs=4, batch_size=2)
    monkeypatch.undo()
    broken = train(shard, model_file, "broken", epochs=4, batch_size=2)
    assert broken.read_bytes() == whole.read_bytes()


def test_the_paper_s_schedule():
    settings = linear_probe.training_settings(
        LinearProbeSettings(), architecture={"depth": 18}, views=VIEWS, precision="float32"
    )
    rates = [learning.learning_rate(step, 10, settings) for step in (0, 249, 250, 449)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert (settings.epochs, settings.batch_size, settings.weight_decay) == (45, 24, 1e-4)
    assert (settings.optimizer, settings.hardest_fraction) == ("sgd", 1)
    assert (settings.depth, settings.dropout, settings.crop_size) == (18, 0, 32)


def test_the_fingerprint_holds_what_decides_the_result_and_nothing_else(tmp_path, model_file):
    train(write_images(tmp_path), model_file, precision="bfloat16", epochs=1)
    (path,) = (tmp_path / "out" / "work").glob("*/fingerprint.json")
    found = json.loads(path.read_text())
    assert set(found) == {"stage", "settings", "model", "label_maps", "clusters", "seed"}
    schedule = LinearProbeSettings.model_fields.keys() - {"enabled"}
    assert set(found["settings"]) == schedule | {*VIEWS, "precision"}
    assert found["settings"]["precision"] == "bfloat16"


def test_unknown_settings_and_missing_files_are_errors(tmp_path, model_file):
    with pytest.raises(
        InputError, match=r"'evaluation\.linear_probe\.epoch', did you mean 'epochs'"
    ):
        LinearProbeSettings.read({"epoch": 3})
    with pytest.raises(InputError, match=r"none\.pt: no such file"):
        train(write_images(tmp_path), tmp_path / "none.pt")


def test_messages_name_settings_and_remedies_of_the_probe(tmp_path, model_file, monkeypatch):
    shard = write_images(tmp_path)
    with pytest.raises(InputError, match=r"\(evaluation\.linear_probe\.learning_rate\)"):
        train(shard, model_file, learning_rate=1e30, epochs=9)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(linear_probe.learning.distributed, "process_group", nullcontext)
    monkeypatch.setattr(linear_probe.learning.distributed, "from_first", lambda value: value)
    monkeypatch.setattr(linear_probe.learning.distributed, "parallel", lambda model, _: model)
    with pytest.raises(InputError, match=r"evaluation\.linear_probe\.batch_size: a batch of 6"):
        train(shard, model_file, "shared")
    monkeypatch.undo()
    shards.write_table(
        shard,
        "label_maps",
        [label_maps.row(0, "0.png", np.full((32, 32), 255, np.uint8))],
        {},
    )
    with pytest.raises(InputError, match=r"no image has a label.*linear_probe\.enabled: false"):
        train(shard, model_file)
    shards.write_table(
        shard,
        "label_maps",
        [label_maps.row(0, "0.png", np.full((32, 32), 9, np.uint8))],
        {},
    )
    with pytest.raises(InputError, match=r"label 9, but there are 2 classes; .*dataset\.classes"):
        train(shard, model_file)
