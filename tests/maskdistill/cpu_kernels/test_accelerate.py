import copy
from unittest import mock

import pytest
import timm
import torch

from workflow_scripts.maskdistill.cpu_kernels import accelerate, onednn, packed_attention
from workflow_scripts.maskdistill.cpu_kernels.packed_linear import PackedLinear


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 512}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    return network.eval().requires_grad_(False)


def accelerated(model):
    result = copy.deepcopy(model)
    accelerate(result)
    return result


def is_plain(model):
    """Whether no layer has been replaced and no attention is ours."""
    with mock.patch.object(packed_attention, "attention") as ours:
        model(torch.zeros(1, 3, 512, 512))
    return not ours.called and not any(isinstance(m, PackedLinear) for m in model.modules())


def test_linear_layers_and_attention_are_accelerated(model):
    images, attention = torch.randn(1, 3, 512, 512), packed_attention.attention
    found = accelerated(model)
    with mock.patch.object(packed_attention, "attention", wraps=attention) as ours:
        torch.testing.assert_close(found(images), model(images), rtol=1e-4, atol=1e-5)
    assert ours.call_count == 2  # one per block, and none of the model that was copied
    assert sum(isinstance(module, PackedLinear) for module in found.modules()) == 8


def test_the_environment_switches_it_off(model, monkeypatch):
    monkeypatch.setenv("MASKDISTILL_CPU_KERNELS", "0")
    assert is_plain(accelerated(model))


def test_a_pytorch_without_the_operators_keeps_its_own(model, monkeypatch):
    def missing(*arguments):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")

    monkeypatch.setattr(onednn, "pack", missing)
    onednn.is_available.cache_clear()
    try:
        assert is_plain(accelerated(model))
    finally:
        onednn.is_available.cache_clear()
