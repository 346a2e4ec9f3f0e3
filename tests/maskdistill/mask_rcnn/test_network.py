import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from workflow_scripts.maskdistill.mask_rcnn import network
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings

SMALL = {"depth": 18, "weights": None, "frozen_stages": 0, "norm": "group"}
SMALL |= {"proposals": 20, "sampled_proposals": 8, "sampled_anchors": 16, "anchor_sizes": [16, 32]}
PYRAMID = {"fpn": True, "fpn_channels": 32, "anchor_sizes": [8, 16, 32, 48, 64]}


def build(prediction=None, clusters=3, **settings):
    torch.manual_seed(0)
    return network.build_mask_rcnn(
        MaskRCNNSettings.read(SMALL | settings), clusters, prediction=prediction
    )


def picture(height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def target(height, width):
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, 8:30, 5:35] = 1
    return {
        "boxes": torch.tensor([[5.0, 8.0, 35.0, 30.0]]),
        "labels": torch.tensor([2]),
        "masks": mask,
    }


def test_r50_c4_is_the_papers():
    model = build(depth=50, anchor_sizes=[32, 64, 128, 256, 512], norm="batch", clusters=20)

    features = torch.zeros(2, 1024, 14, 14)
    assert model.backbone(torch.zeros(1, 3, 64, 96))["0"].shape == (1, 1024, 4, 6)
    assert model.rpn.head.cls_logits.out_channels == 15
    shared = model.roi_heads.box_head(features)
    assert shared.shape == (2, 2048, 7, 7)
    assert model.roi_heads.mask_predictor(shared).shape == (2, 21, 14, 14)
    assert model.roi_heads.box_predictor(shared)[0].shape == (2, 21)
    # res5 is one module, which both branches use.
    assert model.roi_heads.mask_head is None
    assert sum(name.endswith("2.conv3.weight") for name in model.state_dict()) == 4


@pytest.mark.parametrize("options", [{"roi_size": 4}, PYRAMID], ids=["c4", "fpn"])
def test_every_trained_parameter_gets_a_gradient(options):
    model = build(**options).train()

    losses = model([picture(48, 64), picture(64, 40)], [target(48, 64), target(64, 40)])
    sum(losses.values()).backward()

    assert set(losses) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("options", [{"roi_size": 4}, PYRAMID], ids=["c4", "fpn"])
def test_detections_do_not_depend_on_the_batch(options):
    prediction = CandidateSettings(proposals=15, per_image=5, score_floor=0.0)
    model = build(prediction, **options).eval()

    with torch.inference_mode():
        together = model([picture(48, 64), picture(40, 60)])
        alone = [model([image])[0] for image in (picture(48, 64), picture(40, 60))]

    # No near ties: scores lie at least 2e-4 apart; weights changed by 1e-5 of themselves, a hundred
    # times rounding, moved them by 1e-5 and no box by more than 2e-4 pixels.
    cells = 28 if "fpn" in options else 4
    for a, b, (height, width) in zip(together, alone, ((48, 64), (40, 60)), strict=True):
        assert len(a["boxes"]) == 5
        assert a["masks"].shape == (5, 1, cells, cells)
        assert set(a["labels"].tolist()) <= {1, 2, 3}
        assert (a["scores"].diff() <= 0).all()
        assert (a["boxes"].amin(0) >= 0).all()
        assert (a["boxes"].amax(0) <= torch.tensor([width, height] * 2)).all()
        torch.testing.assert_close(a["boxes"], b["boxes"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(a["masks"], b["masks"], atol=1e-4, rtol=1e-4)


def test_sampled_boxes_are_as_many_as_torchvisions():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = network.ImageSampler(16, 0.25), BalancedPositiveNegativeSampler(16, 0.25)
    for positive, negative in [(50, 90), (2, 90), (50, 5), (0, 40), (3, 0), (0, 0)]:
        counts = torch.tensor([positive, negative, 30])
        matched = torch.tensor([2, 0, -1]).repeat_interleave(counts)
        matched = matched[torch.randperm(len(matched), generator=generator)]
        found, expected = (sampler([matched]) for sampler in (ours, theirs))
        for label, (a,), (b,) in zip((2, 0), found, expected, strict=True):
            assert a.sum() == b.sum()
            assert (matched[a.bool()] == label).all()


def test_every_box_is_as_likely_to_be_sampled():
    torch.manual_seed(0)
    matched = torch.tensor([1, 0]).repeat(20)
    drawn = [network.ImageSampler(10, 0.5)([matched]) for _ in range(1000)]
    for index, label in ((0, 1), (1, 0)):
        counts = sum(masks[index][0].int() for masks in drawn)[matched == label]
        # 5 of 20 each time; six standard deviations of a count.
        assert (counts - 250).abs().max() < 6 * (1000 * 0.25 * 0.75) ** 0.5


def test_mask_targets_are_what_lies_within_the_box():
    mask = torch.zeros(1, 20, 30, dtype=torch.uint8)
    mask[:, 4:12, 10:18] = 1

    boxes = torch.tensor([[10.0, 4.0, 18.0, 12.0], [10.0, 4.0, 26.0, 12.0], [2.0, 8.0, 18.0, 16.0]])
    whole, left, corner = network._crop_masks(mask.repeat(3, 1, 1), boxes, 8)

    assert whole.all()
    assert left[:, :4].all()
    assert not left[:, 4:].any()
    assert corner[:4, 4:].all()
    assert corner.sum() == 16


def test_mask_loss_looks_at_the_true_class_only():
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1] = 30.0
    logits[:, 2] = -30.0
    targets = torch.ones(1, 2, 2)

    assert network._mask_loss(logits, targets, torch.tensor([1])) < 1e-6
    assert network._mask_loss(logits, targets, torch.tensor([2])) == pytest.approx(30.0)
    assert network._mask_loss(logits[:0], targets[:0], torch.tensor([], dtype=torch.int64)) == 0


def test_pyramid_pooling_is_right_whatever_the_padding():
    pool = network.PyramidPool(2, 224)
    features = {
        str(level): torch.arange(64 >> level).expand(1, 1, 64 >> level, -1).float()
        for level in range(4)
    }

    # 132 px are padded to 256 here: stride 4 on the first level, but 132 / 64 is nearer to 2.
    small, large = pool(
        features, [torch.tensor([[16.0, 16.0, 32.0, 32.0], [0.0, 0.0, 128.0, 128.0]])], [(132, 256)]
    )

    # A region's middle in pixels, over the stride of its level: 4 for a small one, 8 for 128 px.
    assert small.mean() == pytest.approx(24 / 4, abs=0.1)
    assert large.mean() == pytest.approx(64 / 8, abs=0.1)
