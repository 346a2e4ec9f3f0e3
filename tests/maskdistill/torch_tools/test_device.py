from types import SimpleNamespace

import pytest
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools import device
from workflow_scripts.maskdistill.torch_tools.device import (
    autocast,
    choose_device,
    gradient_scaler,
    replaced_precisions,
    start_copy_to_host,
    usable_precision,
)
from workflow_scripts.maskdistill.torch_tools.precision import PRECISIONS


@pytest.fixture
def gpus(monkeypatch):
    """A function that sets how many GPUs PyTorch seems to find."""

    def show(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return show


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("gpu", 1, "device gpu: no such device; set runtime.device to auto, cpu,"),
        ("cuda:x", 1, "no such device"),
        ("", 1, "no such device"),
        ("cuda", 0, "device cuda: this machine has no CUDA GPU; use runtime.device: auto"),
        ("cuda:0", 0, "has no CUDA GPU"),
        ("cuda:9", 2, "device cuda:9: this machine has 2 CUDA GPUs, counted from 0; use runtime"),
        ("cuda:2", 2, "has 2 CUDA GPUs"),
    ],
)
def test_devices_that_there_are_not_are_one_line(gpus, name, count, message):
    gpus(count)
    with pytest.raises(InputError, match=message) as error:
        choose_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices_that_there_are(gpus, name, count, expected):
    gpus(count)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.usefixtures("half_precision")
def test_products_and_gradients_follow_the_precision(precision):
    cpu, ones = torch.device("cpu"), torch.ones(2, 2)
    with autocast(cpu, precision):
        assert (ones @ ones).dtype is getattr(torch, precision)
    assert gradient_scaler(cpu, precision).is_enabled() == (precision == "float16")


@pytest.mark.parametrize(
    ("capabilities", "precisions"),
    [
        ({"avx2": True, "avx512_bf16": False}, {"float32"}),
        ({"avx2": True, "avx512_bf16": True}, {"float32", "bfloat16"}),
        ({"amx_bf16": True, "amx_fp16": True}, {"float32", "bfloat16", "float16"}),
    ],
)
def test_a_precision_that_the_processor_lacks_is_replaced_in_one_line(
    monkeypatch, capsys, capabilities, precisions
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    device._say_once.cache_clear()
    cpu, ones = torch.device("cpu"), torch.ones(2, 2)
    for name in (*PRECISIONS, *PRECISIONS):
        expected = name if name in precisions else "float32"
        assert usable_precision(cpu, name) == expected
        with autocast(cpu, name):
            assert (ones @ ones).dtype is getattr(torch, expected)
        assert gradient_scaler(cpu, name).is_enabled() == (expected == "float16")
        replaced = {} if name == expected else {"features.precision": "float32"}
        assert replaced_precisions({"features.precision": name}, cpu) == replaced
        assert usable_precision(torch.device("cuda"), name) == name
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(PRECISIONS) - len(precisions)
    assert all("so float32 is used" in line for line in printed)


def test_without_knowledge_of_the_processor_the_setting_is_used(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert {usable_precision(torch.device("cpu"), name) for name in PRECISIONS} == {*PRECISIONS}


def test_float32_is_never_rounded_to_tf32():
    backends = torch.backends
    kinds = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    assert {kind.fp32_precision for kind in kinds} == {"ieee"}
    assert not backends.cuda.matmul.allow_tf32
    assert not backends.cudnn.allow_tf32
    with backends.cudnn.flags(enabled=True):
        pass  # PyTorch would refuse this if its two settings of TF32 disagreed
    assert backends.cudnn.conv.fp32_precision == "ieee"


def test_a_copy_is_awaited_on_the_stream_of_its_device(monkeypatch):
    calls = []

    class Event:
        def record(self, stream):
            calls.append(("record", stream))

        def synchronize(self):
            calls.append("synchronize")

    module = SimpleNamespace(Event=Event, current_stream=lambda device: f"stream of {device}")
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    tensors = (torch.arange(6.0), torch.arange(4.0).half())
    wait = start_copy_to_host(tensors)
    assert calls == [("record", "stream of cpu")]
    arrays = wait()
    assert calls[1:] == ["synchronize"]
    for array, tensor in zip(arrays, tensors, strict=True):
        assert array.dtype == {torch.float32: "f4", torch.float16: "f2"}[tensor.dtype]
        assert array.tolist() == tensor.tolist()
