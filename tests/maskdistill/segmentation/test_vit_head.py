"""The decoder on a frozen transformer: its network, and its training on stored tokens."""

import errno
import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from tests.maskdistill.segmentation.test_learning import history, write_images
from workflow_scripts import train_vit_head
from workflow_scripts.maskdistill.discovery.features import feature_rows, load_backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.files.image_sizes import resized_size
from workflow_scripts.maskdistill.segmentation import deployment, token_training
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX
from workflow_scripts.maskdistill.segmentation.label_map_prediction import load_predictor
from workflow_scripts.maskdistill.segmentation.labelled_images import LabelledImages
from workflow_scripts.maskdistill.segmentation.token_training import build_vit_head
from workflow_scripts.maskdistill.segmentation.vit_head import (
    CELLS,
    FOREGROUND_THRESHOLD,
    Tokens,
    decide,
)
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.sampling import Sample
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun

CPU = torch.device("cpu")
SETTINGS = {
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


def features_of(backbone: dict, **changes) -> FeatureSettings:
    """The settings of features in which images of `write_images` keep their size."""
    return FeatureSettings.read(backbone | {"shorter_side": 40, "tokens": True} | changes)


def build(backbone, clusters=2):
    torch.manual_seed(1)
    return build_vit_head(clusters, features_of(backbone), dropout=0.1)


def write_features(label_maps: Path, backbone: dict, **changes) -> Path:
    """Write the features of the images of a shard of label maps, next to it; returns the shard."""
    settings, root = features_of(backbone, **changes), label_maps.parent
    listed = []
    for row in shards.read_rows(label_maps, ["image_id", "file_name"]):
        width, height = Image.open(root / row["file_name"]).size
        listed.append(row | {"height": height, "width": width})
    rows = feature_rows(
        load_backbone(settings, "cpu"),
        settings,
        listed,
        root,
        batch_size=4,
        workers=1,
        with_tokens=settings.tokens,
    )
    path = root / "features.parquet"
    shards.write_table(path, "features", rows, provenance.record("extract_features", {}))
    return path


@pytest.mark.parametrize("size", [(64, 64), (40, 48), (80, 136), (8, 16)])
def test_tokens_are_those_of_timm(tiny_backbone, size):
    """The grid of position embeddings has 8 x 8 patches and is resized to the image's."""
    model = build(tiny_backbone)
    images = torch.randn(2, 3, *size)
    expected = model.transformer.forward_features(images)
    found = model.tokens(images)
    torch.testing.assert_close(found.image, expected[:, 0])
    expected = expected[:, 1:].transpose(1, 2).unflatten(2, (size[0] // 8, size[1] // 8))
    torch.testing.assert_close(found.patches, expected)


def test_images_are_normalised_as_the_transformer_expects(tiny_backbone):
    """ViT-Ti/16 was trained with a mean and a standard deviation of 0.5."""
    model = build(tiny_backbone)
    pixels = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    found = model.normalize(pixels)
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
    features = features_of(backbone).plain()
    del features["tokens"], features["precision"]  # the program does not read them
    settings = {
        "segmentation": SETTINGS | changes,
        "features": features,
        "clustering": {"clusters": 2},
    }
    stored = shard.parent / "features.parquet"
    if not stored.exists():
        write_features(shard, backbone)
    options = ["--settings", json.dumps(settings), "--root", str(shard.parent), "--seed", "3"]
    options += ["--label-maps", str(shard), "--features", str(stored)]
    options += ["--work-dir", str(output / "work"), "--device", "cpu"]
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
    predictor = load_predictor(trained / "model.pt", CPU)
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
        lambda data: tokens.stat().st_mtime_ns == before or pytest.fail("gathered again"),
    )
    resumed = train(shard, tmp_path / "resumed", tiny_backbone)
    for name, value in straight["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=0, atol=0)


def test_sigterm_ends_the_gathering_of_tokens(tmp_path, tiny_backbone, monkeypatch):
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
    features = write_features(shard, tiny_backbone)
    settings = SegmentationSettings.read_part(SETTINGS)
    labelled = LabelledImages([shard], tmp_path, clusters=2, settings=settings, seed=0)
    model = build(tiny_backbone)

    def make(side: int, *, flip: bool = False) -> tuple:
        data = token_training.TokenImages(
            labelled, [features], model, tmp_path, side=side, flip=flip, seed=0
        )
        data.gather(stop=lambda: False)
        return data, labelled, model

    return make


def test_a_window_may_hold_the_whole_image(windows, tmp_path):
    data, labelled, model = windows(1000)
    image_token, patches, labels = data[Sample(0, 0, 3)]
    assert patches.shape == (48, 6, 6)
    image = np.array(Image.open(tmp_path / "3.png"))
    pixels = torch.nn.functional.pad(model.normalize(torch.from_numpy(image)[None]), (0, 4))
    expected, expected_labels = model.tokens(pixels), labelled.labels(3)
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


@pytest.mark.parametrize("shorter_side", [30, 40, 56])
def test_labels_are_sampled_at_the_transformers_own_resolution(
    tmp_path, tiny_backbone, shorter_side
):
    """Enlarged or reduced for the transformer, the square keeps its place and its share."""
    shard = write_images(tmp_path)
    features = write_features(shard, tiny_backbone, shorter_side=shorter_side)
    settings = SegmentationSettings.read_part(SETTINGS)
    labelled = LabelledImages([shard], tmp_path, clusters=2, settings=settings, seed=0)
    data = token_training.TokenImages(
        labelled, [features], build(tiny_backbone), tmp_path, side=1000, flip=False, seed=0
    )
    data.gather(stop=lambda: False)
    for index in range(len(labelled)):
        own, (_, _, found) = labelled.labels(index), data[Sample(0, 0, index)]
        rows, columns = (round(side * shorter_side / 40 / 2) for side in own.shape)
        small = np.array(Image.fromarray(own).resize((columns, rows), Image.Resampling.NEAREST))
        assert (found[:rows, :columns].numpy() == small).mean() > 0.97
        assert (found[rows + 1 :] == IGNORE_INDEX).all()


def test_images_are_seen_at_the_size_of_their_features(trained):
    """Neither `predictions.longer_side` nor `predictions.tile` matters."""
    image = np.tile(np.asarray(Image.open(trained / "0.png")), (3, 4, 1))
    found = load_predictor(trained / "model.pt", CPU, longer_side=30, tile=16).predict_image(image)
    assert found.image.shape == (40, 59, 3)
    assert found.coarse.shape == (3, 5 * CELLS, 8 * CELLS)
    assert found.labels().shape == image.shape[:2]


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_predictions_from_tokens_are_those_from_pixels(trained, kind):
    predictor = load_predictor(trained / "model.pt", CPU)
    listed = [
        {"image_id": number, "file_name": f"{number}.png", "height": 40, "width": 44}
        for number in range(10)
    ]
    seen, stored = (
        {
            one.row["image_id"]: one
            for one in predictor.predict(
                listed, trained, batch_size=4, workers=2, features=features
            )
        }
        for features in (None, trained / "features.parquet")
    )
    assert seen.keys() == stored.keys() == set(range(10))
    for number, one in stored.items():
        assert one.row == seen[number].row
        np.testing.assert_array_equal(one.image, seen[number].image)
        expected, found = (getattr(each, kind)() for each in (seen[number], one))
        if kind == "labels":
            assert (found == expected).mean() > 0.995
        else:
            np.testing.assert_allclose(found, expected, atol=5e-3)


def test_features_without_the_tokens_are_an_error(trained, tmp_path, tiny_backbone):
    shard = write_images(tmp_path)
    features = write_features(shard, tiny_backbone, tokens=False)
    with pytest.raises(InputError, match=r"no tokens; set features\.tokens: true"):
        train(shard, tmp_path / "output", tiny_backbone)
    predictor = load_predictor(trained / "model.pt", CPU)
    listed = [{"image_id": 0, "file_name": "0.png", "height": 40, "width": 44}]
    with pytest.raises(InputError, match=r"no tokens; set features\.tokens: true"):
        list(predictor.predict(listed, tmp_path, batch_size=1, workers=1, features=features))


def test_images_without_features_are_an_error(tmp_path, tiny_backbone):
    shard = write_images(tmp_path, count=2)
    write_features(shard, tiny_backbone)
    shard = write_images(tmp_path, count=4)
    with pytest.raises(InputError, match=r"no features of 2 images .*ids \[2, 3\]"):
        train(shard, tmp_path / "output", tiny_backbone)


def test_tokens_of_another_backbone_are_an_error(trained, tmp_path, tiny_backbone):
    shard = write_images(tmp_path)
    stored = shards.read_table([write_features(shard, tiny_backbone)]).to_pylist()
    for row in stored:
        row["tokens"] = np.zeros(31 * 24, np.float16)
    path = tmp_path / "other.parquet"
    shards.write_table(path, "features", stored, provenance.record("extract_features", {}))
    predictor = load_predictor(trained / "model.pt", CPU)
    listed = [{"image_id": 0, "file_name": "0.png", "height": 40, "width": 44}]
    with pytest.raises(InputError, match=r"tokens have 24 components, but .* have 48"):
        list(predictor.predict(listed, tmp_path, batch_size=1, workers=1, features=path))


def test_all_tensors_are_on_the_device_of_the_model(tiny_backbone):
    """Tensors without values stand for those of a GPU: mixing them with the CPU's is an error."""
    model = build(tiny_backbone)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    with FakeTensorMode():
        state = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
        scores = functional_call(model, state, torch.empty(1, 3, 40, 72, device="cuda"))
    assert scores.shape == (1, 3, CELLS * 5, CELLS * 9)
    assert scores.device.type == "cuda"


def test_the_exported_graph_equals_the_model(trained, tmp_path):
    """The graph resizes images itself, and its labels are those of the predictor, too."""
    predictor = load_predictor(trained / "model.pt", CPU, fast=False)
    deployment.write_onnx(deployment.export(predictor.model), tmp_path / "model.onnx")
    run = deployment.onnx_runner(tmp_path / "model.onnx")
    generator = np.random.default_rng(0)
    sizes = ((48, 48), (37, 101), (130, 75), (17, 33), (64, 40), (96, 240), (20, 300))
    assert deployment.agreement(predictor.model, run, sizes)["labels"] > 0.999
    for height, width in sizes:
        coarse = generator.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        image = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()
        expected = predictor.predict_image(image)
        labels, probability = run(image[None])
        assert labels.shape == probability.shape == (1, height, width)
        # Pillow rounds the weights of pixels, so a few grey levels differ by one.
        assert (labels[0] == expected.labels()).mean() > 0.995
    assert predictor.model.input_size((48, 48)) != (48, 48)


@pytest.mark.parametrize(("shorter", "longer"), [(448, 768), (448, None), (40, 90)])
def test_the_exported_graph_resizes_to_the_size_of_the_model(shorter, longer):
    """Only sides exactly between two whole numbers may be rounded to the other one."""
    generator = np.random.default_rng(0)
    for height, width in generator.integers(17, 1500, (2000, 2)).tolist():
        found = deployment.resized_size((height, width), shorter, longer)
        expected = resized_size(height, width, shorter_side=shorter, longer_side=longer)
        scale = Fraction(shorter, min(height, width))
        scale = min(scale, Fraction(longer, max(height, width))) if longer else scale
        for side, one, other in zip((height, width), found, expected, strict=True):
            assert one == other or abs(one - side * scale) == Fraction(1, 2)


def test_a_file_of_another_kind_is_an_error(tmp_path):
    torch.save({"model": "vit_head", "state_dict": {}, "clusters": 2}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a segmentation model"):
        load_predictor(tmp_path / "model.pt", CPU)
