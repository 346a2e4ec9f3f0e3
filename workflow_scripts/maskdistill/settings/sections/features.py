"""The section `features`: the vision transformer that finds the objects."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.section import Count, Precision, Section


class FeatureSettings(Section):
    """The vision transformer that finds the objects."""

    section: ClassVar[str] = "features"

    backbone: str = Field(
        "vit_small_patch16_224.dino",
        description="timm's name of a vision transformer with a class token.",
    )
    backbone_options: dict[str, Any] = Field(
        {}, description="Further arguments of timm.create_model."
    )
    weights: str | None = Field(
        None,
        description="Local checkpoint (.pth, .pt, .safetensors); null takes timm's, which the "
        "workflow fetches to data/weights.",
    )
    shorter_side: Count | Literal["auto"] = Field(
        "auto",
        description="Shorter side in pixels that images are resized to; auto takes that of the "
        "backbone's family (the paper's 640 for DINO).",
    )
    longer_side: Count | None = Field(
        2560,
        description="Upper bound on the longer side in pixels, which matters for panoramas; null "
        "for none.",
    )
    tokens: bool = Field(
        False,
        description="Whether the tokens of the last block are stored, too, which `vit_head` learns "
        "and predicts from. They take as much space as the keys.",
    )
    precision: Precision = Field(
        "float32",
        description="Precision of the backbone's matrix products. Half precision is faster on "
        "GPUs; a processor without such products uses float32. float16 changes fewer patches of "
        "masks than bfloat16 (0.05 % instead of 1 % on photographs with the demo's weights).",
    )

    def side(self) -> int:
        """The shorter side in pixels.

        Raises:
            InputError: it is `auto`, which only the workflow replaces by a number.
        """
        if isinstance(self.shorter_side, str):
            raise InputError(
                "features.shorter_side: only the workflow can replace auto by a number; give this "
                "program a number of pixels"
            )
        return self.shorter_side
