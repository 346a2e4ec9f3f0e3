"""The section `crf`: refinement of predictions by a fully connected CRF."""

from typing import Annotated, ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import (
    Count,
    Natural,
    NotNegative,
    Positive,
    Section,
)


class CRFSettings(Section):
    """Refinement of predictions by a fully connected CRF."""

    section: ClassVar[str] = "crf"

    enabled: bool = Field(True, description="Refine predictions by a fully connected CRF.")
    rounds: Natural = Field(
        0,
        description="How many times the model is trained again on its refined predictions of the "
        "training images; 1 for the paper's numbers with CRF.",
    )
    longer_side: Count | None = Field(
        None,
        description="Upper bound on the longer side in pixels of the images that the CRF sees, "
        "whose time is proportional to their pixels; the refined probabilities are enlarged. "
        "bilateral_sigma_xy is in these pixels. null for the size that the model sees, as in the "
        "paper.",
    )
    iterations: Count = Field(10, description="Steps of mean-field inference.")
    gaussian_weight: NotNegative = Field(
        3,
        description="Weight of the smoothness kernel, by which pixels close to each other tend to "
        "the same label; 0 switches it off.",
    )
    gaussian_sigma: Positive = Field(
        1,
        description="How far the smoothness kernel reaches: standard deviation in pixels.",
    )
    bilateral_weight: NotNegative = Field(
        4,
        description="Weight of the appearance kernel, by which pixels of similar colour tend to "
        "the same label; 0 switches it off.",
    )
    bilateral_sigma_xy: Positive = Field(
        67,
        description="How far apart pixels may be that the appearance kernel joins: standard "
        "deviation in pixels.",
    )
    bilateral_sigma_rgb: Positive = Field(
        3,
        description="How different in colour pixels may be that the appearance kernel joins: "
        "standard deviation in each of red, green and blue, whose values are 0 to 255. Larger "
        "values make labels spread across fainter edges.",
    )
    min_probability: Annotated[NotNegative, Field(lt=1)] = Field(
        0,
        description="Labels whose probability is below this everywhere in an image are left out "
        "there, which is faster with many clusters and changes the result slightly. 0 keeps all.",
    )
