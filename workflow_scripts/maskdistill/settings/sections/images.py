"""The section `images`: which images are usable."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Natural, Section, Share


class ImageSettings(Section):
    """Which images are usable, and how many may be unusable."""

    section: ClassVar[str] = "images"

    max_pixels: Count = Field(
        100_000_000, description="Height x width above which an image is rejected."
    )
    min_side: Count = Field(16, description="Smallest accepted side in pixels.")
    max_rejected: Share = Field(
        0.01, description="Share of unusable images above which the run stops."
    )
    max_rejected_count: Natural = Field(
        10, description="Number of unusable images that is always tolerated."
    )

    def plain_limits(self) -> dict[str, int]:
        """The limits for a usable image, as arguments of `images.read_image`."""
        return {"max_pixels": self.max_pixels, "min_side": self.min_side}
