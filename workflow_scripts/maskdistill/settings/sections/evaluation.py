"""The section `evaluation`: scores of objects, the linear probe and the ablations."""

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
    """The values that `snakemake ablations` compares; it varies one setting at a time."""

    section: ClassVar[str] = "evaluation.ablations"

    seeds: Annotated[listed(Natural, least=1), *UNIQUE] | None = Field(
        None,
        description="Seeds that the tables of the ablations average over, also for the dataset's "
        "own settings; null uses `seeds`.",
    )
    top_k: Annotated[listed(Share, least=1), *UNIQUE] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        description="Values of masks.top_k to compare (the paper's Figure 4).",
    )
    clusters: Annotated[listed(Count, least=1), *UNIQUE] = Field(
        (10, 20, 40, 80),
        description="Values of clustering.clusters to compare (the paper's Figure 3). If there are "
        "more clusters than classes, each cluster counts as the most frequent class of its pixels.",
    )
    threshold: Annotated[listed(Share, least=1), *UNIQUE] = Field(
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        description="Values of confidence.threshold to compare (the paper's Figure 5).",
    )
    masks: dict[FileName, MaskSettings] = Field(
        {},
        description="Further settings of `masks` to compare: NAME → the keys that differ. Their "
        "results are in results/DATASET/ablations/masks-NAME. The paper has no such table.",
    )
    train_mask_rcnn: bool = Field(
        False,
        description="Whether Mask R-CNN is trained for every top_k and every number of clusters; "
        "if false, only their initial masks are evaluated.",
    )
    train_segmentation: bool = Field(
        False,
        description="Whether DeepLab-v3 is trained for every threshold; if false, only the label "
        "maps of the confident candidates are evaluated.",
    )
    dino_seg_mass: Share = Field(
        0.75,
        description="Baseline DINO-seg: share of the attention of [CLS] that lies inside the mask.",
    )
    lost_patches: Count = Field(
        400,
        description="Baseline LOST: number of patches (those with the fewest similar patches) to "
        "which the seed patch may be expanded.",
    )


class EvaluationSettings(Section):
    """Scores of objects, the linear probe and the ablations."""

    section: ClassVar[str] = "evaluation"

    objects: bool = Field(
        True,
        description="Whether the labels tell single objects apart, which mask AP, coverage and "
        "calibration need; false for label maps of classes without masks of single objects.",
    )
    linear_probe: LinearProbeSettings = LinearProbeSettings()
    ablations: AblationSettings = AblationSettings()
