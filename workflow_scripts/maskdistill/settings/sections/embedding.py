"""The section `embedding`: the vectors of masked objects that are clustered."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Section


class EmbeddingSettings(Section):
    """The vectors of masked objects that are clustered."""

    section: ClassVar[str] = "embedding"

    input: Literal["masked_image", "box_crop", "masked_crop"] = Field(
        "masked_image",
        description="What the network sees of a mask: masked_image (the whole image without its "
        "background, as in the paper), box_crop (the image inside the mask's box, with its "
        "background) or masked_crop (the same without its background).",
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
        {}, description="Further arguments of timm.create_model."
    )
    weights: str | None = Field(
        None,
        description="Local checkpoint of that network; null takes timm's, fetched as that of "
        "`features`.",
    )
