import pytest
import torch

from workflow_scripts.maskdistill.mask_rcnn import heads


def test_mask_targets_are_what_lies_within_the_box():
    mask = torch.zeros(1, 20, 30, dtype=torch.uint8)
    mask[:, 4:12, 10:18] = 1

    boxes = torch.tensor([[10.0, 4.0, 18.0, 12.0], [10.0, 4.0, 26.0, 12.0], [2.0, 8.0, 18.0, 16.0]])
    whole, left, corner = heads._crop_masks(mask, torch.zeros(3, dtype=torch.int64), boxes, 8)

    assert whole.all()
    assert left[:, :4].all()
    assert not left[:, 4:].any()
    assert corner[:4, 4:].all()
    assert corner.sum() == 16


def test_mask_targets_are_those_of_a_copy_of_the_mask_for_every_box():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 40, 50, generator=generator).gt(0.5).to(torch.uint8)
    numbers = torch.tensor([3, 0, 0, 3, 1, 3])  # no box belongs to object 2
    corners = torch.rand(6, 2, 2, generator=generator) * torch.tensor([50.0, 40.0])
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)

    found = heads._crop_masks(masks, numbers, boxes, 14)

    alone = [
        heads._crop_masks(masks[number][None], torch.tensor([0]), box[None], 14)
        for number, box in zip(numbers, boxes, strict=True)
    ]
    assert torch.equal(found, torch.cat(alone))
    assert found.unique().tolist() == [0, 1]
    assert heads._crop_masks(masks, numbers[:0], boxes[:0], 14).shape == (0, 14, 14)


def test_mask_loss_looks_at_the_true_class_only():
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1] = 30.0
    logits[:, 2] = -30.0
    targets = torch.ones(1, 2, 2)

    assert heads._mask_loss(logits, targets, torch.tensor([1])) < 1e-6
    assert heads._mask_loss(logits, targets, torch.tensor([2])) == pytest.approx(30.0)
    assert heads._mask_loss(logits[:0], targets[:0], torch.tensor([], dtype=torch.int64)) == 0


def test_pyramid_pooling_is_right_whatever_the_padding():
    pool = heads.PyramidPool(2, 224)
    features = {
        str(level): torch.arange(64 >> level).expand(1, 1, 64 >> level, -1).float()
        for level in range(4)
    }

    # An image 132 px high is padded to 256. The first level has 64 rows and thus stride 4, but from
    # the unpadded height torchvision would conclude 132 / 64, about 2.
    small, large = pool(
        features, [torch.tensor([[16.0, 16.0, 32.0, 32.0], [0.0, 0.0, 128.0, 128.0]])], [(132, 256)]
    )

    # Features are column indices: the mean is the region's centre, divided by its level's stride: 4
    # for the small region, 8 for the region of 128 px.
    assert small.mean() == pytest.approx(24 / 4, abs=0.1)
    assert large.mean() == pytest.approx(64 / 8, abs=0.1)
