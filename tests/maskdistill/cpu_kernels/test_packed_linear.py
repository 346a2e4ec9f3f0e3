import copy

import pytest
import timm
import torch
from torch import nn

from workflow_scripts.maskdistill.cpu_kernels.packed_linear import PackedLinear, pack_linear_layers


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    return network.eval().requires_grad_(False)


def packed(model):
    result = copy.deepcopy(model)
    pack_linear_layers(result)
    return result


def layers(model):
    return [type(module) for module in model.modules() if isinstance(module, nn.Linear)]


def test_the_model_computes_the_same_and_keeps_its_names(model):
    images = torch.randn(3, 3, 64, 64)
    found = packed(model)
    assert set(layers(found)) == {PackedLinear}
    assert len(layers(found)) == len(layers(model)) == 8
    assert list(found.state_dict()) == list(model.state_dict())
    for _ in range(2):  # the first call packs
        torch.testing.assert_close(found(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16), (1, 16)])
def test_a_layer(gelu, shape):
    torch.manual_seed(0)
    linear = nn.Linear(16, 40, bias=not gelu).requires_grad_(False)
    inputs = torch.randn(shape)
    expected = nn.functional.gelu(linear(inputs)) if gelu else linear(inputs)
    found = PackedLinear(linear, gelu=gelu)(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_other_precisions_are_pytorch_s_own(model):
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(packed(model)(images), model(images), rtol=0, atol=0)
    linear = nn.Linear(16, 40).double().requires_grad_(False)
    inputs = torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs), rtol=0, atol=0)


def test_only_the_exact_gelu_becomes_part_of_a_layer(model):
    model.blocks[0].mlp.act = nn.GELU(approximate="tanh")
    found, images = packed(model), torch.randn(1, 3, 64, 64)
    assert isinstance(found.blocks[0].mlp.act, nn.GELU)
    assert isinstance(found.blocks[1].mlp.act, nn.Identity)
    torch.testing.assert_close(found(images), model(images), rtol=1e-4, atol=1e-5)


def test_a_gated_mlp_computes_the_same():
    torch.manual_seed(0)
    mlp = timm.layers.GluMlp(16, 32, act_layer=nn.GELU).eval().requires_grad_(False)
    inputs = torch.randn(2, 5, 16)
    torch.testing.assert_close(packed(mlp)(inputs), mlp(inputs), rtol=1e-4, atol=1e-5)
