"""The section `mask_rcnn`: training of Mask R-CNN on the pseudo-labels."""

from typing import ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import (
    RESNET_DEPTHS,
    Count,
    Natural,
    NotNegative,
    Positive,
    Precision,
    ResNetDepth,
    Section,
    Share,
    contradiction,
    listed,
)

_FPN_LEVELS = 5


class MaskRCNNSettings(Section):
    """Architecture and training schedule of Mask R-CNN."""

    section: ClassVar[str] = "mask_rcnn"

    enabled: bool = Field(
        True,
        description="Whether Mask R-CNN is trained. If false, the initial masks are the "
        "candidates, and the quality of each mask (docs/method.md) is its score.",
    )
    engine: Literal["torchvision", "detectron2"] = Field(
        "torchvision",
        description="Library that Mask R-CNN is built with: torchvision, or detectron2 (R50-C4 "
        "with MoCo's recipe for detection).",
    )
    depth: ResNetDepth = Field(50, description=RESNET_DEPTHS)
    fpn: bool = Field(
        False,
        description="Whether objects are found on a feature pyramid (FPN) instead of the last but "
        "one stage of the ResNet (C4, as in the paper).",
    )
    fpn_channels: Count = Field(256, description="With `fpn: true`: channels of every level.")
    roi_size: Count = Field(
        14,
        description="With `fpn: false`: cells along each side of the grid to which the features of "
        "a region are pooled.",
    )
    norm: Literal["batch", "frozen", "group"] = Field(
        "batch",
        description="Normalisation layers: batch, frozen (batch normalisation that keeps the "
        "values of the weights file) or group.",
    )
    weights: str | None = Field(
        None, description="Initial weights of the ResNet; null draws them at random."
    )
    frozen_stages: Natural = Field(
        0,
        description="How many stages of the ResNet keep their initial weights: 0 none, 1 the stem, "
        "2 the stem and the first stage, …",
    )
    anchor_sizes: listed(Count, least=1) = Field(
        (32, 64, 128, 256, 512), description="Sides of the anchors in pixels of the resized image."
    )
    iterations: Count = Field(24_000, description="Training steps.")
    batch_size: Count = Field(16, description="Images per training step, over all processes.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer: sgd or adamw.")
    learning_rate: Positive = Field(0.02, description="Learning rate after the warm-up.")
    momentum: Share = Field(0.9, description="Momentum of SGD, or AdamW's first decay rate.")
    weight_decay: NotNegative = Field(
        0.0001, description="Weight decay of the optimizer, the strength of its L2 penalty."
    )
    learning_rate_steps: listed(Natural) = Field(
        (20_000, 22_000),
        description="Training steps at which the learning rate is multiplied by "
        "`learning_rate_decay`; those at `iterations` or beyond have no effect.",
    )
    learning_rate_decay: Share = Field(
        0.1, description="Factor of the learning rate at each of `learning_rate_steps`."
    )
    warmup_iterations: Natural = Field(
        100,
        description="Training steps at the beginning over which the learning rate rises linearly "
        "to its full value.",
    )
    gradient_clip: Positive | None = Field(
        None, description="Largest norm of the gradient; null for none."
    )
    precision: Precision = Field(
        "float32",
        description="Precision of the network's matrix products in training. float32 is the "
        "default, because it is fast on every machine and gives the same result everywhere, up to "
        "the order of floating-point sums. Half precision is faster on GPUs; a processor without "
        "such products uses float32.",
    )
    train_sides: listed(Count, least=1) = Field(
        tuple(range(480, 801, 32)),
        description="Shorter sides in pixels to which training images are resized: one of these is "
        "drawn for each image.",
    )
    longer_side: Count = Field(
        1333, description="Upper bound on the longer side in pixels of training images."
    )
    flip: bool = Field(True, description="Whether half of the training images are mirrored.")
    proposals: Count = Field(2000, description="Proposals of the RPN kept per image in training.")
    sampled_anchors: Count = Field(256, description="Anchors per image in the RPN's loss.")
    sampled_proposals: Count = Field(512, description="Proposals per image in the heads' losses.")

    def _check_contradictions(self) -> None:
        if self.weights is None and (self.frozen_stages or self.norm == "frozen"):
            raise contradiction(
                "",
                "frozen_stages and norm: frozen would freeze random values without "
                "mask_rcnn.weights; name a weights file, or set frozen_stages: 0 and norm: batch "
                "or group",
            )
        if self.fpn and self.engine == "detectron2":
            raise contradiction(
                "fpn",
                "the engine detectron2 has C4 only; set fpn: false, or engine: torchvision",
            )
        if self.fpn and len(self.anchor_sizes) != _FPN_LEVELS:
            raise contradiction(
                "anchor_sizes",
                "the FPN has five levels and needs one size for each, not "
                f"{len(self.anchor_sizes)}",
            )
