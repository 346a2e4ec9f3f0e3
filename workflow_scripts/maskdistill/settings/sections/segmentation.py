"""The section `segmentation`: training of the segmentation model on the label maps."""

from typing import Annotated, ClassVar, Literal

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


class SegmentationSettings(Section):
    """Architecture, training schedule and augmentation of the segmentation model."""

    section: ClassVar[str] = "segmentation"

    model: Literal["deeplab", "vit_head"] = Field(
        "deeplab",
        description="deeplab, as in the paper, or vit_head: a linear decoder on the frozen "
        "transformer of `features`, which a CPU trains in minutes. vit_head sees images as "
        "`features` says, needs `features.tokens`, and uses crop_size, dropout, flip, and the "
        "settings of schedule, optimizer and loss.",
    )
    depth: ResNetDepth = Field(50, description=RESNET_DEPTHS)
    output_stride: Literal[8, 16] = Field(
        8,
        description="Side of the image divided by that of the feature map: 8, as in the paper, or "
        "16, which is coarser and takes less than half the time.",
    )
    weights: str | None = Field(
        None, description="Initial weights of the ResNet; null draws them at random."
    )
    frozen_stages: Natural = Field(
        0,
        description="How many stages of the ResNet keep their initial weights: 0 none, 1 the stem, "
        "2 the stem and the first stage, …",
    )
    atrous_rates: listed(Count, least=1) = Field(
        (12, 24, 36),
        description="Dilation rates of the parallel convolutions in DeepLab's pyramid (ASPP); 6, "
        "12, 18 suit an output stride of 16.",
    )
    head_width: Count = Field(256, description="Channels of DeepLab's head.")
    dropout: Share = Field(0.5, description="Dropout probability in the head or the decoder.")
    epochs: Count = Field(45, description="Passes over the training images.")
    batch_size: Count = Field(16, description="Images per training step, over all processes.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer: sgd or adamw.")
    learning_rate: Positive = Field(0.002, description="Learning rate at the beginning.")
    learning_rate_milestones: listed(Natural) = Field(
        (40,),
        description="Epochs after which the learning rate is multiplied by `learning_rate_decay`; "
        "those at `epochs` or beyond have no effect.",
    )
    learning_rate_decay: Share = Field(
        0.1, description="Factor of the learning rate at each of `learning_rate_milestones`."
    )
    momentum: Share = Field(0.9, description="Momentum of SGD, or AdamW's first decay rate.")
    weight_decay: NotNegative = Field(
        0.0001, description="Weight decay of the optimizer, the strength of its L2 penalty."
    )
    hardest_fraction: Annotated[Positive, Field(le=1)] = Field(
        0.2,
        description="Share of the pixels that the loss is averaged over, those with the largest "
        "loss; 1 for all.",
    )
    label_smoothing: Share = Field(
        0.0,
        description="Share of each label's probability that the loss spreads evenly over all "
        "clusters and the background; above 0 it keeps a model from learning errors of the label "
        "maps.",
    )
    longer_side: Count | None = Field(
        1024,
        description="Upper bound on the longer side in pixels of training images, which bounds "
        "memory and time with large photographs; smaller images keep their size. null for none "
        "(the paper's images have at most 640 pixels).",
    )
    crop_size: Count = Field(512, description="Side of a training crop in pixels.")
    scale: listed(Positive, least=2, most=2) = Field(
        (0.5, 2.0),
        description="Smallest and largest factor by which a training image is resized at random "
        "before it is cropped.",
    )
    rotation: Annotated[NotNegative, Field(le=180)] = Field(
        10, description="Largest random rotation in degrees, in either direction."
    )
    flip: bool = Field(True, description="Whether half of the training images are mirrored.")
    precision: Precision = Field(
        "float32",
        description="Precision of the network's matrix products in training; see "
        "`mask_rcnn.precision`.",
    )

    def _check_contradictions(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise contradiction("scale", "must be two numbers, 0 < smallest <= largest")
        if self.weights is None and self.frozen_stages:
            raise contradiction(
                "frozen_stages",
                "would freeze random values without segmentation.weights; name a weights file, "
                "or set frozen_stages: 0",
            )
