"""The section `predictions`: what a trained DeepLab-v3 predicts."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Precision, Section


class PredictionSettings(Section):
    """What a trained DeepLab-v3 predicts."""

    section: ClassVar[str] = "predictions"

    precision: Precision = Field(
        "float32",
        description="Precision of the segmentation model's matrix products in prediction, and of "
        "the linear probe's frozen features; see `mask_rcnn.precision`.",
    )
    longer_side: Count | None = Field(
        1024,
        description="Upper bound on the longer side in pixels of the images that the segmentation "
        "model and the CRF see; label maps are enlarged to the images' own size. It should equal "
        "`segmentation.longer_side`, the bound in training. null for none, as in the paper. "
        "vit_head sees images as `features` says instead.",
    )
    tile: Count | None = Field(
        1024,
        description="Side in pixels of the overlapping tiles into which images are divided for "
        "DeepLab if they are larger than one tile after `longer_side`. Tiles bound the memory; "
        "null for none. The CRF has no tiles: with 21 labels it needs 1 GB of memory per million "
        "pixels.",
    )
