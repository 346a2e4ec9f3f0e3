import argparse

import pytest
import torch

from workflow_scripts import convert_weights
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.resnet import build_resnet

NORM = ("weight", "bias", "running_mean", "running_var")


def bottleneck(stage, block):
    """Convolutions of a block: (torchvision's name, name of its norm, Detectron2's name, shape)."""
    width = 64 * 2 ** (stage - 1)
    given = 4 * width if block else (64 if stage == 1 else 2 * width)
    ours, theirs = f"layer{stage}.{block}.", f"res{stage + 1}.{block}."
    yield ours + "conv1", ours + "bn1", theirs + "conv1", (width, given, 1, 1)
    yield ours + "conv2", ours + "bn2", theirs + "conv2", (width, width, 3, 3)
    yield ours + "conv3", ours + "bn3", theirs + "conv3", (4 * width, width, 1, 1)
    if not block:
        names = ours + "downsample.0", ours + "downsample.1", theirs + "shortcut"
        yield *names, (4 * width, given, 1, 1)


def names_and_shapes():
    """All tensors of ResNet-50: (torchvision's name, Detectron2's name, shape)."""
    layers = [("conv1", "bn1", "stem.conv1", (64, 3, 7, 7))]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            layers += bottleneck(stage, block)
    for convolution, norm, theirs, shape in layers:
        yield f"{convolution}.weight", f"{theirs}.weight", shape
        for name in NORM:
            yield f"{norm}.{name}", f"{theirs}.norm.{name}", shape[:1]
        yield f"{norm}.num_batches_tracked", f"{theirs}.norm.num_batches_tracked", ()


TABLE = list(names_and_shapes())


def weights(offset=0.0):
    """A state dict in which each tensor is filled with another number."""
    return {
        name: torch.full(shape, offset + number).to(torch.float32 if shape else torch.int64)
        for number, (name, _, shape) in enumerate(TABLE)
    }


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def moco(encoder, momentum, heads, others=()):
    return {
        "arch": "resnet50",
        "state_dict": prefixed(weights(), f"module.{encoder}.")
        | prefixed(weights(1000.0), f"module.{momentum}.")
        | {f"module.{encoder}.{name}": torch.zeros(2) for name in heads}
        | {f"module.{momentum}.{name}": torch.zeros(2) for name in heads}
        | {f"module.{name}": torch.zeros(2) for name in others},
        "optimizer": {"state": {}, "param_groups": []},
    }


def dino(**networks):
    """A checkpoint of DINO's training; the student's names have the prefix `module.` of DDP."""
    content = {"epoch": 100, "args": argparse.Namespace(arch="resnet50")}
    for name, offset in networks.items():
        wrapper = "module." if name == "student" else ""
        content[name] = prefixed(weights(offset), f"{wrapper}backbone.")
        content[name][f"{wrapper}head.mlp.0.weight"] = torch.zeros(2)
        content[name][f"{wrapper}head.last_layer.weight_g"] = torch.zeros(2)
    return content


MLP = ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
MLP_WITH_NORM = ("fc.0.weight", "fc.1.weight", "fc.1.running_mean", "fc.4.running_var")
CHECKPOINTS = {
    "torchvision": weights() | {"fc.weight": torch.zeros(2), "fc.bias": torch.zeros(2)},
    "MoCo v1": moco("encoder_q", "encoder_k", ("fc.weight", "fc.bias"), ("queue", "queue_ptr")),
    "MoCo v2": moco("encoder_q", "encoder_k", MLP, ("queue", "queue_ptr")),
    "MoCo v3": moco("base_encoder", "momentum_encoder", MLP_WITH_NORM, ("predictor.0.weight",)),
    "DINO": dino(student=1000.0, teacher=0.0),
    "DINO teacher": dino(teacher=0.0),
    "DINO student": dino(student=0.0),
    "DINO backbone": weights(),
}


def convert(folder, content, names):
    torch.save(content, folder / "given.pth")
    options = ["--weights", folder / "given.pth", "--names", names, "--output", folder / "out.pth"]
    assert convert_weights.main(list(map(str, options))) == 0
    return torch.load(folder / "out.pth", weights_only=True)


def test_the_table_is_resnet_50():
    state = build_resnet(50).state_dict()

    assert {name: tuple(value.shape) for name, value in state.items()} == {
        name: shape for name, _, shape in TABLE
    }


@pytest.mark.parametrize("content", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_every_tensor_arrives_under_its_name_and_nothing_is_left_over(tmp_path, content):
    ours = convert(tmp_path, content, "torchvision")
    theirs = convert(tmp_path, content, "detectron2")["model"]

    assert ours.keys() == {name for name, _, _ in TABLE}
    assert theirs.keys() == {name for _, name, _ in TABLE}
    for number, (name, other, shape) in enumerate(TABLE):
        assert ours[name].shape == theirs[other].shape == torch.Size(shape)
        assert (ours[name] == number).all(), name
        assert (theirs[other] == number).all(), other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.5.conv2.weight": None}, "missing keys: layer3.5.conv2.weight"),
        ({"layer5.0.conv1.weight": torch.zeros(1)}, "unexpected keys: layer5.0.conv1.weight"),
        ({"bn1.bias": torch.zeros(65)}, r"other shapes: bn1.bias \[65\] instead of \[64\]"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    content = {name: value for name, value in (weights() | change).items() if value is not None}

    with pytest.raises(InputError, match=rf"given\.pth: .*{message}"):
        convert(tmp_path, content, "detectron2")
    assert not (tmp_path / "out.pth").exists()
