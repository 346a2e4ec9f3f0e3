"""Mask R-CNN with a ResNet-C4 or an FPN, built from torchvision's parts.

C4 is built as in Detectron2: the RPN and RoIAlign use the output of the third stage (stride 16),
and the last stage (res5) is the head that boxes and masks share.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import roi_heads, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from workflow_scripts.maskdistill.mask_rcnn.heads import (
    C4_STRIDE,
    PYRAMID_LEVELS,
    C4Pool,
    Heads,
    PooledPredictor,
    PyramidPool,
)
from workflow_scripts.maskdistill.mask_rcnn.proposals import ImageSampler, RegionProposals
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.resnet import MEAN, STD, build_resnet, output_channels

ASPECT_RATIOS = (0.5, 1.0, 2.0)
FPN_STRIDE = 32  # stride of the ResNet's last stage; images are padded to multiples of it


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
            images: each 3 x H x W, uint8, RGB; sizes may differ.
            targets: in training, for each image "boxes" (n x 4 float32), "labels" (n int64, 1..C)
                and "masks" (n x H x W uint8).

        Returns:
            In training, losses by name. Otherwise for each image "boxes" (n x 4), "labels",
            "scores" and "masks" (n x 1 x M x M probabilities inside the box), by falling score.
        """
        batch = self._batch(images)
        features = self.backbone(batch.tensors)
        proposals, rpn_losses = self.rpn(batch, features, targets)
        detections, head_losses = self.roi_heads(features, proposals, batch.image_sizes, targets)
        return rpn_losses | head_losses if self.training else detections

    def _batch(self, images: Sequence[Tensor]) -> ImageList:
        """Normalise images, and pad them on the right and bottom with zeros (the mean colour).

        In training, all processes pad to the largest image of the global batch, because padding
        changes the features along its border and the statistics of batch normalisation.
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


class C4Backbone(nn.Module):
    """The ResNet from its stem to the third stage (stride 16)."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        for name in ("conv1", "bn1", "relu", "maxpool"):
            self.stem.add_module(name, getattr(resnet, name))
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """B x 3 x H x W → {"0": B x channels x H/16 x W/16}."""
        return {"0": self.layer3(self.layer2(self.layer1(self.stem(images))))}


class _Parts(NamedTuple):
    """The parts of the network that differ between C4 and FPN."""

    backbone: nn.Module
    channels: int  # channels of the backbone's feature maps
    anchor_sizes: tuple[tuple[int, ...], ...]  # one tuple for each feature map
    heads: dict[str, nn.Module | None]
    mask_size: int
    stride: int
    pre_nms_factor: int  # number of proposals before NMS / after NMS, as in Detectron2


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
        initial_weights: read `settings.weights`; False if trained weights are loaded afterwards.

    Raises:
        InputError: the initial weights do not fit the network.
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
    # With channels last in memory, a training step of C4 takes a quarter less time.
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
    levels = dict(zip(stages, PYRAMID_LEVELS, strict=True))
    # 224 px for the usual anchor sizes, as in the FPN paper; for other anchors, in proportion to
    # the third size (usually 128 px), which belongs to the level with stride 16.
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
