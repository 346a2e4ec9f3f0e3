"""The section `evaluation.linear_probe`: a linear classifier on frozen features."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import (
    Count,
    Natural,
    NotNegative,
    Positive,
    Section,
    Share,
    listed,
)


class LinearProbeSettings(Section):
    """A linear classifier that learns with labels on frozen features."""

    section: ClassVar[str] = "evaluation.linear_probe"

    enabled: bool = Field(
        False,
        description="Whether a linear classifier is trained with the labels of `train` on the "
        "frozen features of the trained segmentation model.",
    )
    epochs: Count = Field(45, description="Passes over the training images.")
    batch_size: Count = Field(24, description="Images per training step, over all processes.")
    learning_rate: Positive = Field(0.1, description="Learning rate at the beginning.")
    learning_rate_milestones: listed(Natural) = Field(
        (25,),
        description="Epochs after which the learning rate is multiplied by `learning_rate_decay`; "
        "those at `epochs` or beyond have no effect.",
    )
    learning_rate_decay: Share = Field(
        0.1, description="Factor of the learning rate at each of `learning_rate_milestones`."
    )
    momentum: Share = Field(0.9, description="Momentum of SGD.")
    weight_decay: NotNegative = Field(
        0.0001, description="Weight decay of the optimizer, the strength of its L2 penalty."
    )
