"""The section `report`: pictures of the report."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Natural, Section


class ReportSettings(Section):
    """Pictures of the report."""

    section: ClassVar[str] = "report"

    examples: Natural = Field(16, description="Images shown with every step.")
    crops: Natural = Field(24, description="Masked objects shown per cluster.")
