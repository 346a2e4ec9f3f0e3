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
        "model and the CRF see; label maps have the images' own size all the same. It should be "
        "that of the training, `segmentation.longer_side`. null for none, as in the paper.",
    )
    tile: Count | None = Field(
        1024,
        description="Side in pixels of the overlapping tiles in which the segmentation model sees "
        "images that are larger (after `longer_side`), so that memory is bounded; null for none. "
        "The CRF has no tiles: with `longer_side: null` it needs 1 GB per million pixels and 21 "
        "labels.",
    )
