"""The section `confidence`: which candidates become labels."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Section, Share


class ConfidenceSettings(Section):
    """Which candidates become labels."""

    section: ClassVar[str] = "confidence"

    threshold: Share = Field(
        0.9,
        description="Candidates with a higher score are kept (τ).",
    )
    keep_best: bool = Field(
        True,
        description="Whether an image without a candidate above `threshold` keeps its best one, as "
        "in the paper; if false, its label map has no object.",
    )
    overlap: Share = Field(
        1,
        description="Largest IoU of the masks of two kept candidates of different clusters in one "
        "image. If two overlap more, they are taken for one object that was found as two classes, "
        "and only the one with the higher score is kept. With 1, as in the paper, both are kept.",
    )
