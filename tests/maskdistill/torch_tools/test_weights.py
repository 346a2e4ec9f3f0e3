import argparse
import datetime
import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.checkpoints import read_checkpoint
from workflow_scripts.maskdistill.torch_tools.weights import (
    detectron2_names,
    load_strictly,
    read_state_dict,
)

BARE = {"conv1.weight": torch.ones(2), "layer1.0.bias": torch.zeros(3)}


def prefixed(prefix):
    return {prefix + name: value for name, value in BARE.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "content",
    [
        BARE,
        {"state_dict": BARE, "epoch": 3},
        {"model": BARE},
        {"teacher": BARE, "student": {"conv1.weight": torch.zeros(9)}},
        {"teacher": prefixed("backbone."), "args": argparse.Namespace(arch="vit_small")},
        {"student": prefixed("module.backbone.")},
        {
            "state_dict": prefixed("module.encoder_q.")
            | {"module.encoder_k.conv1.weight": torch.zeros(2), "module.queue": torch.zeros(4)}
        },
        {
            "state_dict": prefixed("module.base_encoder.")
            | {"module.momentum_encoder.conv1.weight": torch.zeros(2)}
        },
    ],
    ids=["bare", "state_dict", "model", "teacher", "backbone", "module", "moco", "moco v3"],
)
def test_wrappers_and_prefixes_are_removed(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")

    assert equal(read_state_dict(tmp_path / "weights.pth"), BARE)


def test_safetensors_are_read(tmp_path):
    save_file(BARE, tmp_path / "weights.safetensors")

    assert equal(read_state_dict(tmp_path / "weights.safetensors"), BARE)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_and_missing_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(path)
    for content in (b"", b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable checkpoint") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(BARE, path)
    path.write_bytes(path.read_bytes()[:-200])

    with pytest.raises(InputError, match="not a readable checkpoint"):
        read_state_dict(path)


def damaged(content, count):
    """Files of `torch.save`, each with a few bytes changed in its description of the tensors."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    whole = buffer.getvalue()
    with zipfile.ZipFile(buffer) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        member = archive.getinfo(name)
    rng = np.random.default_rng(0)
    for number in range(count):
        data = np.frombuffer(whole, np.uint8).copy()
        places = member.header_offset + rng.integers(0, member.file_size + 60, 1 + number % 4)
        data[places] = rng.integers(0, 256, len(places))
        yield data.tobytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_of_any_kind_is_one_line_that_names_the_file(tmp_path):
    path, messages = tmp_path / "model.pt", []
    content = {"state_dict": BARE, "settings": {"depth": 10, "rates": [1, 2]}, "engine": "a"}
    for data in damaged(content, 150):
        path.write_bytes(data)
        try:
            read_checkpoint(path, remedy="train it again")
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 50
    for text in messages:
        assert text.startswith(f"{path}: not a readable checkpoint (")
        assert text.endswith("; train it again")
        assert "\n" not in text


def test_objects_are_not_unpickled(tmp_path):
    torch.save({"state_dict": BARE, "when": datetime.timedelta(1)}, tmp_path / "weights.pth")

    with pytest.raises(InputError, match="not a readable checkpoint") as error:
        read_state_dict(tmp_path / "weights.pth")
    message = str(error.value)
    assert "datetime.timedelta" in message
    assert "weights_only" not in message  # PyTorch's advice to load it unsafely is left out


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}}])
def test_a_file_without_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")

    with pytest.raises(InputError, match="contains no weights of a network"):
        read_state_dict(tmp_path / "weights.pth")


def test_detectron2_has_other_names_for_resnets():
    renamed = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer4.2.bn3.bias": "res5.2.conv3.norm.bias",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.running_mean": "res3.0.shortcut.norm.running_mean",
    }
    state = {name: torch.full((2,), float(i)) for i, name in enumerate(renamed)}

    result = detectron2_names(state)

    assert equal(result, {renamed[name]: value for name, value in state.items()})


def model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_loading_is_complete():
    source, target = model(), model()

    load_strictly(
        target, source.state_dict() | {"fc.bias": torch.ones(1)}, source="w", ignore=("fc.",)
    )

    assert equal(target.state_dict(), source.state_dict())


def test_the_step_counter_of_batch_normalisation_may_be_absent_on_either_side():
    state = model().state_dict()
    counter = state.pop("1.num_batches_tracked")

    load_strictly(model(), state, source="w")
    load_strictly(
        nn.Sequential(nn.Linear(3, 2)),
        {n: v for n, v in state.items() if n[0] == "0"} | {"1.num_batches_tracked": counter},
        source="w",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, "missing keys: 0.bias"),
        ({"2.bias": torch.ones(1)}, "unexpected keys: 2.bias"),
        ({"0.bias": torch.ones(5)}, r"other shapes: 0.bias \[5\] instead of \[2\]"),
    ],
)
def test_what_does_not_fit_is_listed(change, message):
    target = model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {n: v for n, v in (model().state_dict() | change).items() if v is not None}

    with pytest.raises(InputError, match=f"w.pth: .*Sequential.*{message}"):
        load_strictly(target, state, source="w.pth")
    assert equal(target.state_dict(), before)
