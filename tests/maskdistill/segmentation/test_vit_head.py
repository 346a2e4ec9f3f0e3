"""The decoder on a frozen transformer: its network, and its training on stored tokens."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.maskdistill.segmentation.test_learning import history, write_images
from workflow_scripts import train_vit_head
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.segmentation import deployment, token_training
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX
from workflow_scripts.maskdistill.segmentation.label_map_prediction import load_predictor
from workflow_scripts.maskdistill.segmentation.labelled_images import LabelledImages
from workflow_scripts.maskdistill.segmentation.token_training import build_vit_head
from workflow_scripts.maskdistill.segmentation.transforms import MEAN_COLOR, normalize
from workflow_scripts.maskdistill.segmentation.vit_head import (
    CELLS,
    FOREGROUND_THRESHOLD,
    Tokens,
    decide,
)
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.sampling import Sample
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun

CPU = torch.device("cpu")
SETTINGS = {
    "longer_side": 44,
    "crop_size": 32,
    "dropout": 0.1,
    "epochs": 6,
    "batch_size": 5,
    "optimizer": "adamw",
    "learning_rate": 0.003,
    "learning_rate_milestones": [5],
    "learning_rate_decay": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "hardest_fraction": 1.0,
    "label_smoothing": 0.1,
    "flip": True,
}


def build(backbone, clusters=2):
    torch.manual_seed(1)
    return build_vit_head(
        clusters,
        backbone=backbone["backbone"],
        options=backbone["backbone_options"],
        weights=backbone["weights"],
        dropout=0.1,
    )


def test_tokens_are_those_of_timm_at_its_own_size(tiny_backbone):
    model = build(tiny_backbone)
    images = torch.randn(2, 3, 64, 64)
    expected = model.transformer.forward_features(images * model.factor + model.offset)
    found = model.tokens(images)
    torch.testing.assert_close(found.image, expected[:, 0])
    expected = expected[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(found.patches, expected)


def test_images_are_normalised_as_the_transformer_expects(tiny_backbone):
    """ViT-Ti/16 was trained with a mean and a standard deviation of 0.5."""
    model = build(tiny_backbone)
    pixels = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    found = normalize(pixels) * model.factor + model.offset
    torch.testing.assert_close(found, ((pixels / 255 - 0.5) / 0.5).permute(0, 3, 1, 2))


def test_logits_have_several_positions_per_patch(tiny_backbone):
    assert build(tiny_backbone)(torch.zeros(1, 3, 16, 40)).shape == (1, 3, 2 * CELLS, 5 * CELLS)


def test_only_the_decoder_is_trained(tiny_backbone):
    model = build(tiny_backbone).train()
    assert not model.transformer.training
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert names
    assert not any(name.startswith("transformer.") for name in names)
    model(torch.randn(1, 3, 16, 16)).sum().backward()
    assert {name for name, one in model.named_parameters() if one.grad is not None} == names


def train(shard: Path, output: Path, backbone: dict, **changes) -> dict:
    settings = {
        "segmentation": SETTINGS | changes,
        "features": {key: backbone[key] for key in ("backbone", "backbone_options", "weights")},
        "clustering": {"clusters": 2},
    }
    options = ["--settings", json.dumps(settings), "--root", str(shard.parent), "--seed", "3"]
    options += ["--label-maps", str(shard), "--work-dir", str(output / "work"), "--device", "cpu"]
    options += ["--workers", "0"]
    options += ["--model", str(output / "model.pt"), "--history", str(output / "history.csv")]
    assert train_vit_head.main(options) == 0
    return torch.load(output / "model.pt", weights_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("trained")
    shard = write_images(folder)
    train(shard, folder, tiny_backbone, epochs=60, learning_rate_milestones=[])
    return folder


def test_training_ends_with_a_model_that_tells_the_squares_from_the_ground(trained):
    steps = history(trained)
    assert len(steps) == 60 * 2
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    predictor = load_predictor(trained / "model.pt", CPU, longer_side=44)
    image = np.asarray(Image.open(trained / "0.png"))
    labels = predictor.predict_image(image).labels()
    assert labels.shape == image.shape[:2]
    red = (image[..., 0].astype(int) - image[..., 1]) > 100
    assert (labels[red] == 1).mean() > 0.8
    assert (labels[~red] == 0).mean() > 0.8


def test_tokens_are_removed_at_the_end(trained):
    assert list(trained.glob("work/*/tokens*")) == []


def test_the_model_file_holds_the_transformer(trained, tiny_backbone):
    content = torch.load(trained / "model.pt", weights_only=True)
    assert content["model"] == "vit_head"
    own = load_file(tiny_backbone["weights"])
    for name, value in own.items():
        torch.testing.assert_close(content["state_dict"][f"transformer.{name}"], value)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, tiny_backbone, monkeypatch):
    shard = write_images(tmp_path)
    straight = train(shard, tmp_path / "straight", tiny_backbone)
    save = TrainingRun.end_step

    def stop_after_three(run, parts, *, step, **rest):
        if step == 3:
            run.request_stop()
        save(run, parts, step=step, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "end_step", stop_after_three)
        with pytest.raises(SystemExit):
            train(shard, tmp_path / "resumed", tiny_backbone)
    (tokens,) = (tmp_path / "resumed").glob("work/*/tokens/patches.npy")
    before = tokens.stat().st_mtime_ns
    monkeypatch.setattr(
        token_training.TokenImages,
        "remove",
        lambda data: tokens.stat().st_mtime_ns == before or pytest.fail("computed again"),
    )
    resumed = train(shard, tmp_path / "resumed", tiny_backbone)
    for name, value in straight["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=0, atol=0)


def test_sigterm_ends_the_computation_of_tokens(tmp_path, tiny_backbone, monkeypatch):
    shard = write_images(tmp_path)
    straight = train(shard, tmp_path / "straight", tiny_backbone)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "stop_requested", True)
        with pytest.raises(SystemExit) as end:
            train(shard, tmp_path / "resumed", tiny_backbone)
    assert end.value.code == 143
    assert not list((tmp_path / "resumed").glob("work/*/tokens*"))
    resumed = train(shard, tmp_path / "resumed", tiny_backbone)
    for name, value in straight["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=0, atol=0)


def test_tokens_that_find_no_room_are_an_error_and_leave_nothing(windows, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="no space left on the disk"):
        windows(32)
    assert not list(tmp_path.glob("tokens*"))


@pytest.fixture
def windows(tmp_path, tiny_backbone):
    """A function that makes crops of images of 40 x 44 pixels, which have 5 x 6 patches."""
    shard = write_images(tmp_path)
    settings = SegmentationSettings.read_part(SETTINGS)
    labelled = LabelledImages([shard], tmp_path, clusters=2, settings=settings, seed=0)
    model = build(tiny_backbone)

    def make(side: int, *, flip: bool = False) -> tuple:
        data = token_training.TokenImages(labelled, model, tmp_path, side=side, flip=flip, seed=0)
        data.compute(CPU, workers=1, stop=lambda: False)
        return data, labelled, model

    return make


def test_a_window_may_hold_the_whole_image(windows):
    data, labelled, model = windows(1000)
    image_token, patches, labels = data[Sample(0, 0, 3)]
    assert patches.shape == (48, 6, 6)
    image, expected_labels = labelled.read(3)
    padded = np.full((40, 48, 3), MEAN_COLOR, np.uint8)
    padded[:, :44] = image
    expected = model.tokens(normalize(torch.from_numpy(padded)[None]))
    torch.testing.assert_close(image_token.float(), expected.image[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(patches[:, :5].float(), expected.patches[0], rtol=2e-3, atol=2e-3)
    # Each logit stands for a square of 2 x 2 pixels.
    np.testing.assert_array_equal(labels[:20, :22], expected_labels[1::2, 1::2])
    # There are no labels in the image's padding (columns) and beyond the padded image (rows).
    assert (labels[:, 22:] == IGNORE_INDEX).all()
    assert (labels[20:] == IGNORE_INDEX).all()


def test_windows_are_parts_of_the_image_at_all_places(windows):
    whole, _, _ = windows(1000)
    image_token, patches, labels = whole[Sample(0, 0, 3)]
    data, _, _ = windows(16)
    corners = set()
    for step in range(300):
        same_token, part, part_labels = data[Sample(step, 0, 3)]
        assert torch.equal(same_token, image_token)
        (place,) = [
            (row, column)
            for row in range(4)
            for column in range(5)
            if torch.equal(part, patches[:, row : row + 2, column : column + 2])
        ]
        corners.add(place)
        row, column = (CELLS * corner for corner in place)
        window = np.s_[row : row + 2 * CELLS, column : column + 2 * CELLS]
        assert torch.equal(part_labels, labels[window])
    assert len(corners) == 4 * 5


def test_half_of_the_windows_are_mirrored(windows):
    token, patches, labels = windows(1000)[0][Sample(0, 0, 0)]
    data, _, _ = windows(1000, flip=True)
    items = [data[Sample(step, 0, 0)] for step in range(20)]
    mirrored = [item for item in items if not torch.equal(item[2], labels)]
    assert 3 <= len(mirrored) <= 17
    for item in mirrored:
        assert torch.equal(item[0], token)
        assert torch.equal(item[1], patches.flip(2))
        assert torch.equal(item[2], labels.flip(1))


def test_logits_of_a_window_are_those_of_the_image_away_from_its_border(tiny_backbone):
    model = build(tiny_backbone).eval()
    tokens = Tokens(torch.randn(1, 48), torch.randn(1, 48, 20, 20))
    whole = model.decode(tokens)
    part = model.decode(Tokens(tokens.image, tokens.patches[..., 2:18, 2:18]))
    middle = np.s_[..., CELLS:-CELLS, CELLS:-CELLS]
    inner = np.s_[..., 2 * CELLS : 18 * CELLS, 2 * CELLS : 18 * CELLS]
    torch.testing.assert_close(part[middle], whole[inner][middle])


def test_the_foreground_is_decided_before_its_class():
    """Two classes of 0.25 each are together as probable as the background of 0.5."""
    probable = torch.tensor([[0.5, 0.25, 0.2, 0.05], [0.61, 0.2, 0.1, 0.09], [0.3, 0.1, 0.1, 0.5]])
    found = decide(probable.log()[..., None, None])[..., 0, 0]
    assert found.argmax(dim=1).tolist() == [1, 0, 3]
    torch.testing.assert_close(found[:, 0], probable[:, 0].log())
    # Classes keep their differences, so the order among them stays.
    torch.testing.assert_close(found[:, 1] - found[:, 2], (probable[:, 1] / probable[:, 2]).log())


def test_the_foreground_is_found_from_its_threshold_on():
    share = torch.tensor([FOREGROUND_THRESHOLD - 0.01, FOREGROUND_THRESHOLD + 0.01])
    probable = torch.stack([1 - share, 0.6 * share, 0.4 * share], dim=1)
    assert decide(probable.log()[..., None, None]).argmax(dim=1).flatten().tolist() == [0, 1]


def test_large_images_are_predicted_in_tiles(trained):
    image = np.tile(np.asarray(Image.open(trained / "0.png")), (3, 3, 1))
    whole, tiled = (
        load_predictor(trained / "model.pt", CPU, longer_side=None, tile=tile).predict_image(image)
        for tile in (None, 64)
    )
    assert tiled.coarse.shape == whole.coarse.shape
    assert (tiled.labels() == whole.labels()).mean() > 0.7


def test_the_exported_graph_equals_the_model(trained, tmp_path):
    model = load_predictor(trained / "model.pt", CPU, fast=False).model
    deployment.write_onnx(deployment.export(model), tmp_path / "model.onnx")
    sizes = ((48, 48), (37, 101), (130, 75), (17, 33), (64, 40))
    run = deployment.onnx_runner(tmp_path / "model.onnx")
    assert deployment.agreement(model, run, sizes)["labels"] > 0.999


def test_a_file_of_another_kind_is_an_error(tmp_path):
    torch.save({"model": "vit_head", "state_dict": {}, "clusters": 2}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a segmentation model"):
        load_predictor(tmp_path / "model.pt", CPU)
