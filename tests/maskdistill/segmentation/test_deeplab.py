import pytest
import torch

from workflow_scripts.maskdistill.segmentation.deeplab import ImageDropout, build_deeplab
from workflow_scripts.maskdistill.segmentation.upsampling import upsample


@pytest.mark.parametrize(
    ("depth", "output_stride"), [(18, 8), (18, 16), pytest.param(50, 8), pytest.param(50, 16)]
)
def test_logits_have_one_output_a_class_at_the_output_stride(depth, output_stride):
    model = build_deeplab(
        6, depth=depth, output_stride=output_stride, frozen_stages=0, head_width=16
    ).eval()
    with torch.inference_mode():
        logits = model(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 7, 64 // output_stride, 96 // output_stride)


def test_the_defaults_are_the_papers():
    model = build_deeplab(20)
    assert model.trunk.layer4[-1].conv3.out_channels == 2048
    pyramid, *_, classifier = model.head
    assert classifier.out_channels == 21
    assert [branch[0].dilation[0] for branch in list(pyramid.convs)[1:4]] == [12, 24, 36]
    assert pyramid.project[0].out_channels == 256


def test_the_first_two_blocks_stay_as_they_are_in_training():
    torch.manual_seed(0)
    model = build_deeplab(
        2, depth=18, output_stride=16, frozen_stages=2, atrous_rates=(1, 2), head_width=8
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        frozen = name.startswith(("trunk.conv1", "trunk.bn1", "trunk.layer1"))
        changed = not torch.equal(value, before[name])
        if frozen or name.endswith(("running_mean", "running_var", "conv1.weight")):
            assert changed != frozen, name


def test_a_batch_of_one_can_be_trained_on():
    model = build_deeplab(
        3, depth=18, output_stride=16, frozen_stages=0, atrous_rates=(1,), head_width=8
    ).train()
    model(torch.randn(1, 3, 48, 48)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_several_is_normalised_by_its_own_statistics():
    torch.manual_seed(0)
    model = build_deeplab(
        3, depth=18, output_stride=16, frozen_stages=0, atrous_rates=(1,), head_width=8
    ).train()
    norm = model.head[0].convs[-1][2]
    x = torch.randn(5, 8, 1, 1)
    expected = (x - x.mean(0)) / (x.var(0, unbiased=False) + norm.eps).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_dropout_is_the_setting():
    options = {"depth": 18, "frozen_stages": 0, "atrous_rates": (1,), "head_width": 8}
    for dropout in (0.0, 0.3):
        model = build_deeplab(3, dropout=dropout, **options)
        found = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
        assert found == [dropout]


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.3, 0.5, 1.0])
def test_dropout_keeps_the_mean(p):
    x = torch.ones(4, 16, 20, 25, requires_grad=True)
    kept = ImageDropout(p).train()(x)
    kept.sum().backward()
    torch.testing.assert_close(x.grad, kept.detach())
    # Six standard deviations of the share of zeros in 32,000 independent draws.
    bound = 6 * (p * (1 - p) / x.numel()) ** 0.5
    assert abs((kept == 0).double().mean().item() - p) <= bound
    if p < 1:
        torch.testing.assert_close(kept.max().item(), 1 / (1 - p), rtol=1e-4, atol=0)
    assert ImageDropout(p).eval()(x) is x


def test_dropout_does_not_depend_on_the_order_in_memory():
    x = torch.randn(2, 3, 4, 5)
    dropped = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        dropped.append(ImageDropout(0.5).train()(x.contiguous(memory_format=memory_format)))
    assert torch.equal(*dropped)


def test_upsampling_keeps_centres_in_place():
    # A linear ramp, sampled at the centres of cells of 8 pixels; upsampling must restore it.
    cells = torch.arange(4).float() * 8 + 4
    full = upsample(cells.expand(1, 1, 2, 4), (16, 32))
    inner = full[0, 0, 5, 4:28]
    torch.testing.assert_close(inner, torch.arange(4, 28) + 0.5)
