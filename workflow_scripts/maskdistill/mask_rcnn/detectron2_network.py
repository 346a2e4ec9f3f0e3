"""Mask R-CNN with a ResNet-C4, built from Detectron2's parts as in MoCo's detection recipe.

As in that recipe, batch normalisation is trained with statistics over all processes. Another batch
normalisation follows the last stage (res5), whose features the box and mask heads share.

The result depends on the number of processes. Each process pads its images to the largest image in
its own part of the batch, samples anchors and regions with its own random numbers, and averages
the losses of classes, boxes and masks over its own regions.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock as TorchvisionBasicBlock

from workflow_scripts.maskdistill.mask_rcnn.heads import C4_STRIDE
from workflow_scripts.maskdistill.mask_rcnn.network import ASPECT_RATIOS, NORM_LAYERS
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.resnet import BLOCKS, MEAN, STD, build_resnet
from workflow_scripts.maskdistill.torch_tools.weights import detectron2_names, load_strictly

# Detectron2's names of the losses → torchvision's names, which all engines write to their loss
# histories.
_LOSSES = {
    "loss_cls": "loss_classifier",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_loc": "loss_rpn_box_reg",
}


class Detectron2MaskRCNN(GeneralizedRCNN):
    """Detectron2's model with the interface of `network.MaskRCNN`."""

    statistics: dict[str, float]  # Detectron2's statistics of the last training step

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses of a batch in training mode, detections in evaluation mode.

        Args and returns: see `network.MaskRCNN.forward`.
        """
        inputs = [{"image": image} for image in images]
        if not self.training:
            return [_detections(found) for found in self.inference(inputs, do_postprocess=False)]
        if rank := distributed.rank():
            # `seed_step` gives all processes the same seed, but with Detectron2 each samples its
            # own regions and needs another seed.
            torch.manual_seed(torch.initial_seed() + rank)
        for given, target in zip(inputs, targets, strict=True):
            given["instances"] = _instances(target, given["image"].shape[-2:])
        with EventStorage() as storage:
            losses = super().forward(inputs)
        self.statistics = {name: value for name, (value, _) in storage.latest().items()}
        return {_LOSSES[name]: loss for name, loss in losses.items()}


def build_mask_rcnn(
    settings: MaskRCNNSettings,
    clusters: int,
    *,
    prediction: CandidateSettings | None = None,
    initial_weights: bool = True,
) -> Detectron2MaskRCNN:
    """Build the network; arguments are those of `network.build_mask_rcnn`.

    The parameters have Detectron2's names.

    Raises:
        InputError: the initial weights do not fit the network.
    """
    prediction = prediction or CandidateSettings()
    trunk = _build_trunk(settings)
    if initial_weights:
        resnet = build_resnet(
            settings.depth, weights=settings.weights, norm_layer=NORM_LAYERS[settings.norm]
        )
        load_strictly(trunk, detectron2_names(resnet.state_dict()), source=settings.weights)
    shapes = trunk.output_shape()
    channels = shapes["res5"].channels
    res5 = nn.Sequential(*trunk.res5)
    res5.add_module("norm", get_norm(_norm(settings), channels))
    return Detectron2MaskRCNN(
        backbone=ResNet(trunk.stem, trunk.stages[:3], out_features=["res4"]),
        proposal_generator=RPN(
            in_features=["res4"],
            head=StandardRPNHead(
                in_channels=shapes["res4"].channels,
                num_anchors=len(settings.anchor_sizes) * len(ASPECT_RATIOS),
            ),
            anchor_generator=DefaultAnchorGenerator(
                sizes=[settings.anchor_sizes], aspect_ratios=[ASPECT_RATIOS], strides=[C4_STRIDE]
            ),
            anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
            box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
            batch_size_per_image=settings.sampled_anchors,
            positive_fraction=0.5,
            pre_nms_topk=(6 * settings.proposals, 6 * prediction.proposals),
            post_nms_topk=(settings.proposals, prediction.proposals),
            nms_thresh=0.7,
        ),
        roi_heads=Res5ROIHeads(
            num_classes=clusters,
            batch_size_per_image=settings.sampled_proposals,
            positive_fraction=0.25,
            proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
            in_features=["res4"],
            pooler=ROIPooler(
                output_size=settings.roi_size,
                scales=(1 / C4_STRIDE,),
                sampling_ratio=0,
                pooler_type="ROIAlignV2",
            ),
            res5=res5,
            box_predictor=FastRCNNOutputLayers(
                ShapeSpec(channels=channels, height=1, width=1),
                box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
                num_classes=clusters,
                test_score_thresh=prediction.score_floor,
                test_nms_thresh=prediction.nms_threshold,
                test_topk_per_image=prediction.per_image,
            ),
            mask_head=MaskRCNNConvUpsampleHead(
                ShapeSpec(channels=channels), num_classes=clusters, conv_dims=[256]
            ),
        ),
        pixel_mean=[255 * value for value in MEAN],
        pixel_std=[255 * value for value in STD],
        input_format="RGB",
    )


def _build_trunk(settings: MaskRCNNSettings) -> ResNet:
    """The whole ResNet: stages up to res4 become the backbone, res5 becomes the heads' trunk."""
    norm = _norm(settings)
    stages, channels = [], 64
    torchvision_block, numbers = BLOCKS[settings.depth]
    for index, blocks in enumerate(numbers):
        options = {"norm": norm, "stride_per_block": [1 if index == 0 else 2] + [1] * (blocks - 1)}
        width = 64 * 2**index
        if torchvision_block is TorchvisionBasicBlock:
            kind, output = BasicBlock, width
        else:
            kind, output = BottleneckBlock, 4 * width
            # In torchvision's and MoCo's bottlenecks the 3 x 3 convolution has the stride.
            options |= {"bottleneck_channels": width, "stride_in_1x1": False}
        stages.append(
            ResNet.make_stage(kind, blocks, in_channels=channels, out_channels=output, **options)
        )
        channels = output
    return ResNet(
        BasicStem(norm=norm),
        stages,
        out_features=["res4", "res5"],
        freeze_at=settings.frozen_stages,
    )


def _norm(settings: MaskRCNNSettings) -> str:
    """Detectron2's name of the normalisation."""
    # `distributed.parallel` replaces BN if there are several processes.
    return {"batch": "BN", "frozen": "FrozenBN", "group": "GN"}[settings.norm]


def _instances(target: dict[str, Tensor], size: tuple[int, int]) -> Instances:
    """Targets of one image for Detectron2, which counts classes from 0."""
    return Instances(
        tuple(size),
        gt_boxes=Boxes(target["boxes"]),
        gt_classes=target["labels"] - 1,
        gt_masks=BitMasks(target["masks"].bool()),
    )


def _detections(found: Instances) -> dict[str, Tensor]:
    return {
        "boxes": found.pred_boxes.tensor,
        "labels": found.pred_classes + 1,
        "scores": found.scores,
        "masks": found.pred_masks,
    }
