"""Region proposals (RPN) of Mask R-CNN, and sampling of the boxes in its losses."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import rpn

from workflow_scripts.maskdistill.torch_tools import distributed, sampling


class ImageSampler:
    """Samples positive and negative boxes of each image; replaces torchvision's sampler.

    The sample of an image depends on its position in the global batch, not on the number of
    processes, see `sampling.image_generators`. It is drawn on the CPU, which takes microseconds, so
    that it is the same on every device.

    Args:
        boxes: the most boxes to sample from each image.
        positive_fraction: the largest share of positive boxes among them.
    """

    def __init__(self, boxes: int, positive_fraction: float) -> None:
        self.boxes, self.positive_fraction = boxes, positive_fraction

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each image, a mask of the chosen positive and one of the chosen negative boxes.

        Args:
            matched_idxs: for each image, one number per box: above 0 if it is positive, 0 if
                negative, below 0 if it must not be chosen.
        """
        generators = sampling.image_generators(len(matched_idxs))
        positives, negatives = [], []
        for labels, generator in zip(matched_idxs, generators, strict=True):
            limit = int(self.boxes * self.positive_fraction)
            positive, count = _choose(labels >= 1, limit, generator)
            negative, _ = _choose(labels == 0, self.boxes - count, generator)
            positives.append(positive)
            negatives.append(negative)
        return positives, negatives


def _choose(candidates: Tensor, limit: int, generator: np.random.Generator) -> tuple[Tensor, int]:
    """Choose up to `limit` of the candidates; returns a uint8 mask and their number."""
    (indices,) = torch.where(candidates)
    count = min(limit, len(indices))
    drawn = torch.from_numpy(generator.choice(len(indices), count, replace=False, shuffle=False))
    chosen = torch.zeros_like(candidates, dtype=torch.uint8)
    chosen[indices[drawn.to(indices.device)]] = 1
    return chosen, count


class RegionProposals(rpn.RegionProposalNetwork):
    """torchvision's RPN, with losses that are means over the sampled anchors of the global batch.

    Args:
        sampler: samples the anchors for the losses.
        arguments, options: arguments of torchvision's class.
    """

    def __init__(self, *arguments, sampler: ImageSampler, **options) -> None:
        super().__init__(
            *arguments,
            **options,
            batch_size_per_image=sampler.boxes,
            positive_fraction=sampler.positive_fraction,
        )
        self.fg_bg_sampler = sampler

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses of objectness and boxes, scaled by `distributed.mean_counts`."""
        positive, negative = (
            torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels)
        )
        sampled = torch.cat([positive, negative])
        (count,) = distributed.mean_counts([len(sampled)], objectness.device)
        box_loss = functional.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=1 / 9,
            reduction="sum",
        )
        objectness = objectness.flatten()[sampled]
        objectness_loss = functional.binary_cross_entropy_with_logits(
            objectness, torch.cat(labels)[sampled].to(objectness.dtype), reduction="sum"
        )
        return objectness_loss / count, box_loss / count
