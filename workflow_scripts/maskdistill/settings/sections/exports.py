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
    polygons: bool = Field(False, description="Whether to write COCO's files with polygons, too.")
    polygon_tolerance: NotNegative = Field(
        1.0,
        description="Largest distance in pixels by which a polygon's border is moved to save "
        "points; 0 is exact.",
    )
    weights_licence: str | None = Field(
        None,
        description="Licence of the trained weights, for the model card; it must respect that of "
        "the initial weights.",
    )
