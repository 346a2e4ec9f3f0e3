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
        description="Formats that `snakemake exports` writes in addition to the model.",
    )
    polygons: bool = Field(
        False,
        description="Whether the format coco also writes `*_polygons.json`, copies of its files "
        "with polygons instead of run lengths, for tools that cannot read run lengths.",
    )
    polygon_tolerance: NotNegative = Field(
        1.0,
        description="Largest distance in pixels between the border of a polygon and the border of "
        "its mask. Larger values give fewer points; 0 is exact. It applies to the format yolo and, "
        "with `polygons: true`, to coco.",
    )
    weights_licence: str | None = Field(
        None,
        description="Licence of the trained weights, for the model card; the licence of the "
        "initial weights must permit it.",
    )
