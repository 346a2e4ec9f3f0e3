"""The section `exports`: what `snakemake exports` writes for other tools."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS
from workflow_scripts.maskdistill.settings.section import UNIQUE, NotNegative, Section, listed

Format = Literal[tuple(EXPORT_FORMATS)]


class ExportSettings(Section):
    """What `snakemake exports` writes for other tools."""

    section: ClassVar[str] = "exports"

    formats: Annotated[listed(Format), *UNIQUE] = Field(
        tuple(EXPORT_FORMATS),
        description="What `snakemake exports` writes in addition to the model.",
    )
    polygons: bool = Field(
        False,
        description="Whether the format coco has copies of its files, `*_polygons.json`, in which "
        "outlines of masks are polygons instead of run lengths, for tools that do not read those.",
    )
    polygon_tolerance: NotNegative = Field(
        1.0,
        description="How far in pixels the border of a polygon may lie from that of its mask, "
        "which saves points; 0 is exact. Polygons are written with `polygons` and by the formats "
        "that know no other masks.",
    )
    weights_licence: str | None = Field(
        None,
        description="Licence of the trained weights, for the model card; it must respect that of "
        "the initial weights.",
    )
