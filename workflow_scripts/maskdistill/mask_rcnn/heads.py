"""Mask R-CNN's heads for classes, boxes and masks, and the pooling of regions' features."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import roi_heads
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from workflow_scripts.maskdistill.mask_rcnn.proposals import ImageSampler
from workflow_scripts.maskdistill.torch_tools import distributed

C4_STRIDE = 16
PYRAMID_LEVELS = ("0", "1", "2", "3")  # levels from which regions are pooled
# In prediction, images are processed in groups that have at most this many regions together (or of
# one image at a time), to bound memory: the features of a region of ResNet-50-C4 need 1.6 MB.
REGIONS_PER_PASS = 1024


class C4Pool(nn.Module):
    """RoIAlign on the only feature map, with stride 16, and without a shift by half a pixel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], _: list[tuple[int, int]]
    ) -> Tensor:
        """Pool the regions' features: regions x channels x size x size."""
        return roi_align(features["0"], boxes, self.size, 1 / C4_STRIDE, aligned=True)


class PyramidPool(MultiScaleRoIAlign):
    """RoIAlign on the level of the feature pyramid that suits the region's size.

    torchvision computes the strides of the levels from the first image without its padding, which
    is wrong if the padding is large. Here the strides are fixed.

    Args:
        size: cells along a side of the pooled features.
        canonical_size: side in pixels of the regions that are pooled from the level of stride 16.
    """

    def __init__(self, size: int, canonical_size: float) -> None:
        super().__init__(list(PYRAMID_LEVELS), size, sampling_ratio=2)
        exponents = [2 + int(level) for level in PYRAMID_LEVELS]
        self.scales = [2.0**-exponent for exponent in exponents]
        self.map_levels = initLevelMapper(exponents[0], exponents[-1], canonical_size)


class PooledPredictor(FastRCNNPredictor):
    """Class scores and box offsets from the spatial average of a region's features.

    The initial weights have the same distribution as in Detectron2.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (regions x channels x h x w) → scores (regions x (C + 1)) and box offsets."""
        return super().forward(features.mean((2, 3)))


class Heads(roi_heads.RoIHeads):
    """Box and mask heads; without a separate mask head, masks use the box head's features.

    In training, masks are then predicted from the box features of the positive regions, which need
    not be computed again. Losses of classes and boxes are means over all sampled regions of the
    global batch; the mask loss is a mean over its positive regions.

    Args:
        mask_size: cells along a side of the predicted masks.
        sampler: samples the regions for the losses.
        arguments: further arguments of torchvision's class.
    """

    def __init__(self, *, mask_size: int, sampler: ImageSampler, **arguments) -> None:
        super().__init__(
            **arguments,
            batch_size_per_image=sampler.boxes,
            positive_fraction=sampler.positive_fraction,
        )
        self.mask_size = mask_size
        self.fg_bg_sampler = sampler

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections (empty in training mode) and losses (empty in evaluation mode)."""
        if not self.training:
            count = max(1, REGIONS_PER_PASS // max(1, *map(len, proposals)))
            parts = [slice(first, first + count) for first in range(0, len(proposals), count)]
            return [
                found
                for some in parts
                for found in self._detect(
                    {level: values[some] for level, values in features.items()},
                    proposals[some],
                    image_shapes[some],
                )
            ], {}
        proposals, matched, labels, offsets = self.select_training_samples(proposals, targets)
        box_features = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        scores, predicted_offsets = self.box_predictor(box_features)
        positive = [label > 0 for label in labels]
        regions = [boxes[chosen] for boxes, chosen in zip(proposals, positive, strict=True)]
        if self.mask_head is None:
            mask_features = box_features[torch.cat(positive)]
        else:
            mask_features = self.mask_head(self.mask_roi_pool(features, regions, image_shapes))
        mask_targets = [
            _crop_masks(target["masks"], index[chosen], boxes, self.mask_size)
            for target, index, chosen, boxes in zip(
                targets, matched, positive, regions, strict=True
            )
        ]
        labels, positive = torch.cat(labels), torch.cat(positive)
        class_sum, box_sum = _box_losses(
            scores.float(), predicted_offsets.float(), labels, torch.cat(offsets), positive
        )
        mask_sum = _mask_loss(
            self.mask_predictor(mask_features).float(), torch.cat(mask_targets), labels[positive]
        )
        regions_count, positive_count = distributed.mean_counts(
            [len(labels), sum(map(len, regions))], labels.device
        )
        return [], {
            "loss_classifier": class_sum / regions_count,
            "loss_box_reg": box_sum / regions_count,
            "loss_mask": mask_sum / positive_count,
        }

    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        scores, offsets = self.box_predictor(self.box_head(pooled))
        boxes, scores, labels = self.postprocess_detections(
            scores.float(), offsets.float(), proposals, image_shapes
        )
        if self.mask_head is None:
            mask_features = self.box_head(self.box_roi_pool(features, boxes, image_shapes))
        else:
            mask_features = self.mask_head(self.mask_roi_pool(features, boxes, image_shapes))
        logits = self.mask_predictor(mask_features).float()
        return [
            {"boxes": b, "scores": s, "labels": label, "masks": m}
            for b, s, label, m in zip(
                boxes, scores, labels, roi_heads.maskrcnn_inference(logits, labels), strict=True
            )
        ]


def _crop_masks(masks: Tensor, numbers: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop an object's mask to each box and resize it: n x size x size, 0 or 1.

    Each mask is converted to floating point only once, even if several boxes belong to it.

    Args:
        masks: objects x H x W, 0 or 1.
        numbers: n, for each box the index of its object in `masks`.
        boxes: n x 4, XYXY.
    """
    used, places = numbers.unique(return_inverse=True)
    regions = torch.cat([places[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[used][:, None].to(boxes.dtype), regions, size, 1.0, aligned=True)
    return (crops[:, 0] >= 0.5).to(boxes.dtype)


def _box_losses(
    scores: Tensor, offsets: Tensor, labels: Tensor, targets: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor]:
    """The class loss and the box loss as in torchvision, each summed over the regions.

    Args:
        scores: regions x (C + 1).
        offsets: regions x 4 (C + 1).
        labels: classes of the regions, 0 for the background.
        targets: true offsets, regions x 4.
        positive: which regions are not background.
    """
    own = offsets.unflatten(1, (-1, 4))[positive, labels[positive]]
    return (
        functional.cross_entropy(scores, labels, reduction="sum"),
        functional.smooth_l1_loss(own, targets[positive], beta=1 / 9, reduction="sum"),
    )


def _mask_loss(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the true class's mask: mean over pixels, sum over regions."""
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    losses = functional.binary_cross_entropy_with_logits(own, targets, reduction="none")
    return losses.sum() / (logits.shape[-2] * logits.shape[-1])
