"""The section `candidates`: the scored objects that a trained Mask R-CNN predicts."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Precision, Section, Share


class CandidateSettings(Section):
    """Candidates, the scored objects that a trained Mask R-CNN predicts."""

    section: ClassVar[str] = "candidates"

    shorter_side: Count = Field(
        800,
        description="Shorter side in pixels that images are resized to for Mask R-CNN's "
        "prediction.",
    )
    longer_side: Count = Field(
        1333, description="Upper bound on the longer side in pixels of these resized images."
    )
    proposals: Count = Field(1000, description="Proposals of the RPN kept per image in prediction.")
    per_image: Count = Field(100, description="Largest number of candidates per image.")
    score_floor: Share = Field(0.05, description="Candidates with a lower score are dropped.")
    nms_threshold: Share = Field(
        0.5,
        description="Box IoU above which the weaker of two candidates of one cluster is dropped.",
    )
    precision: Precision = Field(
        "float32",
        description="Precision of Mask R-CNN's matrix products in prediction; see "
        "`mask_rcnn.precision`.",
    )
