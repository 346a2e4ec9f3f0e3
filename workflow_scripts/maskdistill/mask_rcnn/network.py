"""Mask R-CNN with a ResNet-C4 or an FPN, out of torchvision's parts.

C4 is Detectron2's: the RPN and RoIAlign work on the third stage (stride 16), and the last stage
(res5) is the head that boxes and masks share.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import roi_heads, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed, sampling
from workflow_scripts.maskdistill.torch_tools.resnet import MEAN, STD, build_resnet, output_channels

ASPECT_RATIOS = (0.5, 1.0, 2.0)
# Padded sides are multiples of the coarsest stride that is computed from the image.
C4_STRIDE, FPN_STRIDE = 16, 32
_LEVELS = ("0", "1", "2", "3")  # of the pyramid that regions are pooled from


class MaskRCNN(nn.Module):
    """Backbone, region proposals and heads; boxes are XYXY in pixels of the resized image."""

    def __init__(
        self,
        backbone: nn.Module,
        proposals: rpn.RegionProposalNetwork,
        heads: roi_heads.RoIHeads,
        stride: int,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads, self.stride = backbone, proposals, heads, stride
        for name, values in (("mean", MEAN), ("std", STD)):
            tensor = 255 * torch.tensor(values)[:, None, None]
            self.register_buffer(name, tensor, persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses of a batch in training mode, detections in evaluation mode.

        Args:
            images: 3 x H x W, uint8, RGB, of any sizes.
            targets: in training, "boxes" (n x 4 float32), "labels" (n int64, 1..C) and "masks"
                (n x H x W uint8) of each image.

        Returns:
            Losses by name, or for each image "boxes" (n x 4), "labels", "scores" by falling score
            and "masks" (n x 1 x M x M probabilities within the box).
        """
        batch = self._batch(images)
        features = self.backbone(batch.tensors)
        proposals, rpn_losses = self.rpn(batch, features, targets)
        detections, head_losses = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return rpn_losses | head_losses if self.training else detections

    def _batch(self, images: Sequence[Tensor]) -> ImageList:
        """Normalise, and pad to the right and bottom with zeros (the mean colour).

        In training all processes pad to the largest image of the global batch: padding changes
        the features along its border and the statistics of batch normalisation.
        """
        sizes = [tuple(image.shape[-2:]) for image in images]
        largest = [max(side) for side in zip(*sizes, strict=True)]
        if self.training:
            largest = distributed.largest(largest, self.mean.device)
        height, width = (-(-side // self.stride) * self.stride for side in largest)
        batch = self.mean.new_zeros(len(images), height, width, 3).permute(0, 3, 1, 2)
        for padded, image, (h, w) in zip(batch, images, sizes, strict=True):
            padded[:, :h, :w] = (image.to(batch.device) - self.mean) / self.std
        return ImageList(batch, sizes)


class ImageSampler:
    """Samples positive and negative boxes of each image, in place of torchvision's sampler.

    What is drawn for an image depends on its place in the global batch, and not on how many
    processes share the batch, see `sampling.image_generators`. It is drawn on the CPU, which takes
    microseconds for so few numbers, and is the same on every device.

    Args:
        boxes: that are sampled of each image, if it has as many.
        positive_fraction: largest share of positive ones among them.
    """

    def __init__(self, boxes: int, positive_fraction: float) -> None:
        self.boxes, self.positive_fraction = boxes, positive_fraction

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the chosen positive and of the chosen negative boxes of each image.

        Args:
            matched_idxs: of each image, a number for each box: above 0 for a positive one, 0 for
                a negative one, below 0 for one that must not be chosen.
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
    """Up to `limit` of the candidates, as a mask of uint8, and their number."""
    (indices,) = torch.where(candidates)
    count = min(limit, len(indices))
    drawn = torch.from_numpy(generator.choice(len(indices), count, replace=False, shuffle=False))
    chosen = torch.zeros_like(candidates, dtype=torch.uint8)
    chosen[indices[drawn.to(indices.device)]] = 1
    return chosen, count


class RegionProposals(rpn.RegionProposalNetwork):
    """torchvision's; its losses are means over the sampled anchors of the global batch.

    Args:
        sampler: of the anchors that are trained on.
        arguments, options: of torchvision's class.
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
        """Losses of objectness and boxes; see `distributed.mean_counts` for their scale."""
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


class C4Backbone(nn.Module):
    """The ResNet from its stem to the third stage: stride 16."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        for name in ("conv1", "bn1", "relu", "maxpool"):
            self.stem.add_module(name, getattr(resnet, name))
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B x 3 x H x W → {"0": B x channels x H/16 x W/16}."""
        return {"0": self.layer3(self.layer2(self.layer1(self.stem(images))))}


class C4Pool(nn.Module):
    """RoIAlign on the one feature map of stride 16, without torchvision's half-pixel shift."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], _: list[tuple[int, int]]
    ) -> Tensor:
        """Regions x channels x size x size."""
        return roi_align(features["0"], boxes, self.size, 1 / C4_STRIDE, aligned=True)


class PyramidPool(MultiScaleRoIAlign):
    """RoIAlign on the level of the pyramid that suits the region's size.

    torchvision infers the levels' strides from the first image without its padding, and is wrong
    where the padding is large; here they are given.

    Args:
        size: cells along a side of the pooled features.
        canonical_size: side in pixels of a region that belongs to the level of stride 16.
    """

    def __init__(self, size: int, canonical_size: float) -> None:
        super().__init__(list(_LEVELS), size, sampling_ratio=2)
        exponents = [2 + int(level) for level in _LEVELS]
        self.scales = [2.0**-exponent for exponent in exponents]
        self.map_levels = initLevelMapper(exponents[0], exponents[-1], canonical_size)


class PooledPredictor(FastRCNNPredictor):
    """Class scores and box offsets from the spatial average of the region's features.

    Initialised as in Detectron2.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        for layer, deviation in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Regions x channels x h x w → scores and offsets, regions x (C + 1) and x 4 (C + 1)."""
        return super().forward(features.mean((2, 3)))


class Heads(roi_heads.RoIHeads):
    """Box and mask heads; without a mask head of their own, masks share the box head's features.

    Box features of the sampled regions are computed once, and masks are predicted from those of
    the positive regions among them.

    Losses are means over the sampled or positive regions of the global batch.

    Args:
        mask_size: cells along a side of the predicted masks.
        sampler: of the regions that are trained on.
        arguments: of torchvision's class.
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
        """Detections in evaluation mode, losses in training mode; the other one is empty."""
        if not self.training:
            return self._detect(features, proposals, image_shapes), {}
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
            _crop_masks(target["masks"][index[chosen]], boxes, self.mask_size)
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


def _crop_masks(masks: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The part of each mask within its box: n x size x size, 0 or 1."""
    numbers = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    regions = torch.cat([numbers[:, None], boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), regions, size, 1.0, aligned=True)
    return (crops[:, 0] >= 0.5).to(boxes.dtype)


def _box_losses(
    scores: Tensor, offsets: Tensor, labels: Tensor, targets: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses of classes and of boxes, each a sum over the regions, as torchvision has them.

    Args:
        scores: regions x (C + 1).
        offsets: regions x 4 (C + 1).
        labels: of the regions, 0 for the background.
        targets: true offsets, regions x 4.
        positive: which regions are no background.
    """
    own = offsets.unflatten(1, (-1, 4))[positive, labels[positive]]
    return (
        functional.cross_entropy(scores, labels, reduction="sum"),
        functional.smooth_l1_loss(own, targets[positive], beta=1 / 9, reduction="sum"),
    )


def _mask_loss(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the mask of the true class: mean over cells, sum over regions."""
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    losses = functional.binary_cross_entropy_with_logits(own, targets, reduction="none")
    return losses.sum() / (logits.shape[-2] * logits.shape[-1])


class _Parts(NamedTuple):
    """What C4 and FPN do not have in common."""

    backbone: nn.Module
    channels: int  # of its feature maps
    anchor_sizes: tuple[tuple[int, ...], ...]  # one tuple for each feature map
    heads: dict[str, nn.Module | None]
    mask_size: int
    stride: int
    pre_nms_factor: int  # proposals before NMS to proposals after it, as in Detectron2


def build_mask_rcnn(
    settings: MaskRCNNSettings,
    clusters: int,
    *,
    prediction: CandidateSettings | None = None,
    initial_weights: bool = True,
) -> MaskRCNN:
    """Build the network for classes 1..`clusters` and background 0.

    Args:
        prediction: how detections are selected in evaluation mode; None for the defaults.
        initial_weights: read `settings.weights`; False where a trained state follows.

    Raises:
        InputError: the initial weights do not fit.
    """
    prediction = prediction or CandidateSettings()
    resnet = build_resnet(
        settings.depth,
        weights=settings.weights if initial_weights else None,
        frozen_stages=settings.frozen_stages,
        norm_layer=NORM_LAYERS[settings.norm],
    )
    parts = (_fpn if settings.fpn else _c4)(settings, resnet, clusters + 1)
    sizes = parts.anchor_sizes
    network = MaskRCNN(
        parts.backbone,
        RegionProposals(
            AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes)),
            rpn.RPNHead(parts.channels, len(sizes[0]) * len(ASPECT_RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            sampler=ImageSampler(settings.sampled_anchors, 0.5),
            pre_nms_top_n={
                "training": settings.proposals * parts.pre_nms_factor,
                "testing": prediction.proposals * parts.pre_nms_factor,
            },
            post_nms_top_n={
                "training": settings.proposals,
                "testing": prediction.proposals,
            },
            nms_thresh=0.7,
        ),
        Heads(
            **parts.heads,
            mask_size=parts.mask_size,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            sampler=ImageSampler(settings.sampled_proposals, 0.25),
            bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
            score_thresh=prediction.score_floor,
            nms_thresh=prediction.nms_threshold,
            detections_per_img=prediction.per_image,
        ),
        parts.stride,
    )
    # A step of C4 takes three quarters of the time so.
    return network.to(memory_format=torch.channels_last)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "group": _group_norm,
}


def _c4(settings: MaskRCNNSettings, resnet: nn.Module, classes: int) -> _Parts:
    channels = output_channels(resnet.layer4)
    return _Parts(
        backbone=C4Backbone(resnet),
        channels=output_channels(resnet.layer3),
        anchor_sizes=(settings.anchor_sizes,),
        heads={
            "box_roi_pool": C4Pool(settings.roi_size),
            "box_head": resnet.layer4,
            "box_predictor": PooledPredictor(channels, classes),
            "mask_predictor": MaskRCNNPredictor(channels, 256, classes),
        },
        mask_size=2 * -(-settings.roi_size // 2),
        stride=C4_STRIDE,
        pre_nms_factor=6,
    )


def _fpn(settings: MaskRCNNSettings, resnet: nn.Module, classes: int) -> _Parts:
    width = settings.fpn_channels
    stages = ("layer1", "layer2", "layer3", "layer4")
    channels = [output_channels(getattr(resnet, stage)) for stage in stages]
    levels = dict(zip(stages, _LEVELS, strict=True))
    # 224 px where the anchors are the usual ones, of which the third, 128 px, has stride 16; with
    # other anchors in proportion.
    canonical_size = 224 / 128 * settings.anchor_sizes[2]
    return _Parts(
        backbone=BackboneWithFPN(resnet, levels, channels, width),
        channels=width,
        anchor_sizes=tuple((size,) for size in settings.anchor_sizes),
        heads={
            "box_roi_pool": PyramidPool(7, canonical_size),
            "box_head": TwoMLPHead(width * 7 * 7, 4 * width),
            "box_predictor": FastRCNNPredictor(4 * width, classes),
            "mask_roi_pool": PyramidPool(14, canonical_size),
            "mask_head": MaskRCNNHeads(width, (width,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(width, width, classes),
        },
        mask_size=28,
        stride=FPN_STRIDE,
        pre_nms_factor=1,
    )
