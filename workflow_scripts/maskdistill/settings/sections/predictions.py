"""The section `predictions`: what a trained DeepLab-v3 predicts."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Precision, Section


class PredictionSettings(Section):
    """What a trained DeepLab-v3 predicts."""

    section: ClassVar[str] = "predictions"

    precision: Precision = Field(
        "float32",
        description="Precision of the segmentation model's matrix products in prediction, and of "
        "the linear probe's frozen features; see `mask_rcnn.precision`.",
    )
