"""The section `embedding`: the vectors of masked objects that are clustered."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Section


class EmbeddingSettings(Section):
    """The vectors of masked objects that are clustered."""

    section: ClassVar[str] = "embedding"

    input: Literal["masked_image", "box_crop"] = Field(
        "masked_image",
        description="masked_image (background removed) or box_crop (background kept).",
    )
    crop_side: Count | None = Field(
        224,
        description="Side in pixels that a box crop is resized to; null keeps its size.",
    )
    backbone: str | None = Field(
        None,
        description="timm's name of another network for embeddings; null uses that of `features`.",
    )
    backbone_options: dict[str, Any] = Field(
        {}, description="Further arguments of timm.create_model."
    )
    weights: str | None = Field(
        None,
        description="Local checkpoint of that network; null takes timm's, fetched as that of "
        "`features`.",
    )
