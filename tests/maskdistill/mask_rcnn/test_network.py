import pytest
import torch

from workflow_scripts.maskdistill.mask_rcnn import heads, network
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
    # Boxes and masks use the same module res5.
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

    # Scores differ by at least 2e-4, so that rounding cannot change their order: when all weights
    # were changed by a factor of 1 + 1e-5, a hundred times the rounding error, scores changed by
    # 1e-5 and boxes by at most 2e-4 pixels.
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


@pytest.mark.parametrize("options", [{"roi_size": 4}, PYRAMID], ids=["c4", "fpn"])
def test_regions_of_few_images_at_a_time_give_the_same_detections(monkeypatch, options):
    model = build(CandidateSettings(proposals=12, per_image=4, score_floor=0.0), **options).eval()
    pooled = []
    pool = model.roi_heads.box_roi_pool.forward

    def note(features, boxes, sizes):
        pooled.append(sum(map(len, boxes)))
        return pool(features, boxes, sizes)

    monkeypatch.setattr(model.roi_heads.box_roi_pool, "forward", note)
    pictures = [picture(64, 96)] * 3 + [picture(64, 80)]
    with torch.inference_mode():
        together = model(pictures)
        assert pooled[0] == 4 * 12
        pooled.clear()
        monkeypatch.setattr(heads, "REGIONS_PER_PASS", 24)
        parts = model(pictures)
    assert max(pooled) <= 24
    for one, other in zip(together, parts, strict=True):
        for name, values in one.items():
            torch.testing.assert_close(other[name], values, rtol=1e-3, atol=1e-3)
