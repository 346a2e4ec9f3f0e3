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

    enabled: bool = Field(
        True, description="Whether a fully connected CRF refines the predictions."
    )
    rounds: Natural = Field(
        0,
        description="How many times the model is trained again on its refined predictions of the "
        "training images; 1 for the paper's numbers with CRF.",
    )
    longer_side: Count | None = Field(
        None,
        description="Upper bound on the longer side in pixels of the images that the CRF sees. Its "
        "time is proportional to their number of pixels. The refined probabilities are enlarged "
        "afterwards, and bilateral_sigma_xy is in pixels of the reduced images. null for the size "
        "that the segmentation model sees, as in the paper.",
    )
    iterations: Count = Field(10, description="Steps of mean-field inference.")
    gaussian_weight: NotNegative = Field(
        3,
        description="Weight of the smoothness kernel, which favours equal labels for pixels that "
        "are close to each other; 0 switches it off.",
    )
    gaussian_sigma: Positive = Field(
        1,
        description="Standard deviation of the smoothness kernel in pixels.",
    )
    bilateral_weight: NotNegative = Field(
        4,
        description="Weight of the appearance kernel, which favours equal labels for pixels of "
        "similar colour; 0 switches it off.",
    )
    bilateral_sigma_xy: Positive = Field(
        67,
        description="Standard deviation of the appearance kernel in space, in pixels. Larger "
        "values connect pixels that are farther apart.",
    )
    bilateral_sigma_rgb: Positive = Field(
        3,
        description="Standard deviation of the appearance kernel in colour, for each of red, green "
        "and blue, whose values are 0 to 255. Larger values make labels spread across stronger "
        "edges.",
    )
    min_probability: Annotated[NotNegative, Field(lt=1)] = Field(
        0,
        description="Labels whose probability is below this at every pixel of an image are left "
        "out of its CRF. This is faster with many clusters and changes the result slightly. 0 "
        "keeps all labels.",
    )
