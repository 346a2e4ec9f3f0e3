"""The section `masks`: object masks from the features."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Natural, Section, Share, listed


class MaskSettings(Section):
    """Object masks from the features."""

    section: ClassVar[str] = "masks"

    top_k: Share = Field(
        0.4, description="Share of patches (those nearest to [CLS]) that are proposals."
    )
    heads: listed(Natural, least=1) | None = Field(
        None, description="Heads averaged in Eq. 1; null for all."
    )
    center_keys: bool = Field(False, description="Subtract the image's mean key before Eq. 2.")
    source_component: bool = Field(
        False, description="Keep only the component that holds the source."
    )
    per_image: Count = Field(1, description="The most masks per image.")
    next_source: Share = Field(
        0.5,
        description="Smallest affinity to [CLS] of the source of a further mask, as a share of the "
        "first source's; both are measured from the image's mean.",
    )
