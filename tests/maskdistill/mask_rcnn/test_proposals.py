import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from workflow_scripts.maskdistill.mask_rcnn.proposals import ImageSampler


def test_sampled_boxes_are_as_many_as_torchvisions():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ImageSampler(16, 0.25), BalancedPositiveNegativeSampler(16, 0.25)
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
    drawn = [ImageSampler(10, 0.5)([matched]) for _ in range(1000)]
    for index, label in ((0, 1), (1, 0)):
        counts = sum(masks[index][0].int() for masks in drawn)[matched == label]
        # Each of 1,000 draws takes 5 of 20, so that a count is near 250. The bound is six standard
        # deviations.
        assert (counts - 250).abs().max() < 6 * (1000 * 0.25 * 0.75) ** 0.5
