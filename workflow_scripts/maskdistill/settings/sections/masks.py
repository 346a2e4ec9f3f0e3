"""The section `masks`: object masks from the features."""

from typing import ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import (
    Count,
    Natural,
    NotNegative,
    Section,
    Share,
    contradiction,
    listed,
)


class MaskSettings(Section):
    """Object masks from the features."""

    section: ClassVar[str] = "masks"

    top_k: Share = Field(
        0.4,
        description="Share of the patches, those nearest to [CLS], that vote on which patches "
        "belong to the object (Eq. 2).",
    )
    heads: listed(Natural, least=1) | None = Field(
        None, description="Attention heads averaged in Eq. 1, counted from 0; null for all."
    )
    center_keys: bool | Literal["auto"] = Field(
        False,
        description="Whether the image's mean key is subtracted before Eq. 2; auto subtracts it "
        "only in images in which nearly all affinities would otherwise be positive.",
    )
    scores: Literal["voters", "diffusion"] = Field(
        "voters",
        description="Scores of patches: voters (the sum of Eq. 2) or diffusion (the affinity to "
        "[CLS] of all patches, diffused over the affinity between keys several times).",
    )
    diffusion_steps: Count = Field(
        2,
        description="With `scores: diffusion`: number of diffusion steps; with many, the scores "
        "become the first principal component of the keys.",
    )
    border_prior: NotNegative = Field(
        0,
        description="With `scores: diffusion`: how strongly patches along the border of the image "
        "count as background, relative to the affinity to [CLS].",
    )
    discriminant: bool = Field(
        False,
        description="Whether the scores are replaced by the linear function of keys that best "
        "separates the patches inside the mask from those outside (Fisher's discriminant).",
    )
    cut: NotNegative = Field(
        0,
        description="Score above which a patch is inside the mask, as a multiple of the root mean "
        "square of the image's scores: 0 as in the paper, larger values for smaller masks.",
    )
    source_component: bool = Field(
        False,
        description="Whether only the connected component of a mask that holds its source, the "
        "patch nearest to [CLS], is kept.",
    )
    split_components: bool = Field(
        False,
        description="Whether every connected component of a mask is a mask of its own, the largest "
        "first, up to `per_image` masks per image. Components that cover less than `least_share` "
        "of the image are left out. Pixels that touch at a corner are connected.",
    )
    enlargement: Literal["nearest", "bilinear"] = Field(
        "nearest",
        description="How scores of patches become a mask of pixels: nearest (blocks) or bilinear "
        "(interpolated, then cut).",
    )
    refinement: Literal["none", "crf"] = Field(
        "none",
        description="Refinement of the mask on the pixels of the image: none, or crf (a fully "
        "connected CRF with the labels object and background).",
    )
    refinement_side: Count = Field(
        160,
        description="Shorter side in pixels to which images are resized for `refinement`, at most "
        "`features.shorter_side`.",
    )
    per_image: Count = Field(
        1,
        description="Largest number of masks per image. Above 1, further masks are searched for "
        "among the patches that no earlier mask holds; see `next_source`.",
    )
    next_source: Share = Field(
        0.5,
        description="When the search for further masks ends. Each mask grows from the patch "
        "nearest to [CLS] that no earlier mask holds, its source. The search goes on as long as "
        "that patch is at least this near, from 0 (the mean of the image's patches) to 1 (as near "
        "as the source of the first mask). 0 finds the most masks, 1 only the first.",
    )
    least_share: Share = Field(
        0,
        description="Share of the image that a mask must cover; later stages skip smaller masks.",
    )
    largest_share: Share = Field(
        1,
        description="Share of the image that a mask may cover; later stages skip larger masks, and "
        "always a mask of the whole image.",
    )

    def _check_contradictions(self) -> None:
        if self.split_components and self.source_component:
            raise contradiction(
                "split_components",
                "masks.source_component keeps one component only; set one of the two to false",
            )
        if self.split_components and self.per_image == 1:
            raise contradiction(
                "split_components",
                "masks.per_image: 1 allows one component only; raise it, or set "
                "split_components: false",
            )
        if self.least_share > self.largest_share:
            raise contradiction(
                "least_share",
                f"{self.least_share} is above masks.largest_share, {self.largest_share}",
            )

    @property
    def at_pixels(self) -> bool:
        """Whether masks are cut at the image's pixels instead of at the patches."""
        return self.enlargement == "bilinear" or self.refinement != "none"
