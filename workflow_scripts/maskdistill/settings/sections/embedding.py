"""The section `embedding`: one vector for each masked object, which k-means clusters."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Section


class EmbeddingSettings(Section):
    """One vector for each masked object, which k-means clusters."""

    section: ClassVar[str] = "embedding"

    input: Literal["masked_image", "box_crop", "masked_crop"] = Field(
        "masked_image",
        description="Input of the network for one mask: masked_image (the whole image without the "
        "background, as in the paper), box_crop (the mask's bounding box, with the background) or "
        "masked_crop (the bounding box without the background).",
    )
    crop_side: Count | None = Field(
        224,
        description="Side in pixels of the square that box_crop and masked_crop are resized to; "
        "null keeps the size of the box.",
    )
    backbone: str | None = Field(
        None,
        description="timm's name of another network for embeddings; null uses that of `features`.",
    )
    backbone_options: dict[str, Any] = Field(
        {}, description="Further arguments of timm.create_model for `embedding.backbone`."
    )
    weights: str | None = Field(
        None,
        description="Local checkpoint for `embedding.backbone`; null takes timm's, which the "
        "workflow fetches to data/weights.",
    )
