import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.resnet import build_resnet, keep_frozen


def trunk(model, images):
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_output_stride(depth, stride):
    model = build_resnet(depth, output_stride=stride).eval()

    with torch.inference_mode():
        features = trunk(model, torch.zeros(1, 3, 64, 96))

    assert features.shape == (1, 512 if depth == 18 else 2048, 64 // stride, 96 // stride)


def test_dilation_keeps_the_parameters():
    plain, dilated = build_resnet(50), build_resnet(50, output_stride=8)

    shapes = [{n: v.shape for n, v in m.state_dict().items()} for m in (plain, dilated)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"depth": 11}, "ResNet-11"), ({"depth": 50, "output_stride": 4}, "stride 4")],
)
def test_unknown_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_resnet(**arguments)


def checkpoint(path, prefix="", heads=()):
    torch.manual_seed(0)
    state = {prefix + n: v for n, v in build_resnet(18).state_dict().items()}
    torch.save({"state_dict": state | {prefix + h: torch.zeros(1) for h in heads}}, path)
    return {n.removeprefix(prefix): v for n, v in state.items()}


@pytest.mark.parametrize(
    ("prefix", "heads"),
    [
        ("", ("fc.weight", "fc.bias")),
        ("module.encoder_q.", ("fc.weight",)),
        ("module.encoder_q.", ("fc.0.weight", "fc.2.bias")),
        ("module.base_encoder.", ("fc.0.weight", "fc.1.running_mean")),
    ],
    ids=["torchvision", "MoCo v1", "MoCo v2", "MoCo v3"],
)
def test_published_names_are_read(tmp_path, prefix, heads):
    expected = checkpoint(tmp_path / "w.pth", prefix, heads)

    model = build_resnet(18, weights=tmp_path / "w.pth")

    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_frozen_normalisation_takes_the_statistics_of_the_checkpoint(tmp_path):
    torch.manual_seed(0)
    source = build_resnet(18)
    for _ in range(2):  # to get other statistics than the initial ones
        trunk(source.train(), torch.randn(4, 3, 64, 64))
    torch.save(source.state_dict(), tmp_path / "w.pth")

    model = build_resnet(18, weights=tmp_path / "w.pth", norm_layer=FrozenBatchNorm2d)

    # The sums have two different orders; in float64 the rounding difference is negligible.
    images = torch.randn(1, 3, 64, 64).double()
    model, source = model.double().train(), source.double().eval()
    with torch.inference_mode():
        torch.testing.assert_close(trunk(model, images), trunk(source, images))


def test_another_depth_is_refused(tmp_path):
    checkpoint(tmp_path / "w.pth")

    with pytest.raises(InputError, match=r"w\.pth: the weights do not fit ResNet"):
        build_resnet(50, weights=tmp_path / "w.pth")


STAGES = ("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)


@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(frozen):
    model = build_resnet(18, frozen_stages=frozen)
    prefixes = tuple(prefix for stage in STAGES[:frozen] for prefix in stage)

    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(prefixes), name
    model.train()
    keep_frozen(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    with torch.no_grad():
        trunk(model, torch.randn(2, 3, 64, 64))
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == name.startswith(prefixes), name
    modes = {module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    assert modes == {frozen < 5} | ({False} if frozen else set())
