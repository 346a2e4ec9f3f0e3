"""The section `evaluation`: the linear probe and the ablations."""

from typing import Annotated, ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import (
    UNIQUE,
    Count,
    FileName,
    Natural,
    Section,
    Share,
    listed,
)
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings


class AblationSettings(Section):
    """What `snakemake ablations` varies, one thing at a time."""

    section: ClassVar[str] = "evaluation.ablations"

    seeds: Annotated[listed(Natural, least=1), *UNIQUE] | None = Field(
        None,
        description="Seeds of all ablations, including the rows of the run itself; null uses "
        "`seeds`.",
    )
    top_k: Annotated[listed(Share, least=1), *UNIQUE] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), description="Values of masks.top_k (Figure 4)."
    )
    clusters: Annotated[listed(Count, least=1), *UNIQUE] = Field(
        (10, 20, 40, 80),
        description="Values of clustering.clusters (Figure 3); above the number of classes, "
        "matching is by majority.",
    )
    threshold: Annotated[listed(Share, least=1), *UNIQUE] = Field(
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95), description="Values of confidence.threshold (Figure 5)."
    )
    masks: dict[FileName, MaskSettings] = Field(
        {},
        description="Other masks to compare: NAME → the keys of `masks` that differ. Their files "
        "lie in results/DATASET/ablations/masks-NAME; no table of the paper shows them.",
    )
    train_mask_rcnn: bool = Field(
        False,
        description="Train Mask R-CNN for every top_k and every number of clusters; false only "
        "evaluates their initial masks.",
    )
    train_segmentation: bool = Field(
        False,
        description="Train DeepLab-v3 for every threshold; false only evaluates the label maps of "
        "the confident candidates.",
    )
    dino_seg_mass: Share = Field(
        0.75, description="DINO-seg: share of the attention of [CLS] inside the mask."
    )
    lost_patches: Count = Field(
        400,
        description="LOST: number of patches (those with the fewest similar patches) among which "
        "the seed is expanded.",
    )


class EvaluationSettings(Section):
    """The linear probe and the ablations."""

    section: ClassVar[str] = "evaluation"

    linear_probe: LinearProbeSettings = LinearProbeSettings()
    ablations: AblationSettings = AblationSettings()
