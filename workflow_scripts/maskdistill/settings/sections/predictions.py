"""The section `predictions`: what a trained DeepLab-v3 predicts."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Precision, Section


class PredictionSettings(Section):
    """What a trained DeepLab-v3 predicts."""

    section: ClassVar[str] = "predictions"

    precision: Precision = Field(
        "float32",
        description="Precision of the network's products when the segmentation model predicts, on "
        "every device, and thus of the frozen features that the linear probe learns on; see "
        "`mask_rcnn.precision`.",
    )
