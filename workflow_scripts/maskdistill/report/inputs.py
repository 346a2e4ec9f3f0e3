"""The files and settings that a report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.pictures.step_colours import StepColours, step_colours
from workflow_scripts.maskdistill.report.health import Finding
from workflow_scripts.maskdistill.runs.verification import Verdict

ShardsBySplit = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """The inputs of a report; its pictures show the first seed."""

    dataset: str
    split: str  # split of the example images; if there is ground truth, the evaluated split
    root: Path
    settings: Mapping  # the dataset's whole merged config
    findings: Sequence[Finding]  # of check_health
    images: ShardsBySplit  # manifests
    masks: ShardsBySplit
    assignments: Sequence[Path]
    steps: Mapping[str, Sequence[Path]]  # step → shards of label maps of `split`
    candidates: ShardsBySplit = field(default_factory=dict)
    confident: ShardsBySplit = field(default_factory=dict)
    metrics: Mapping[str, Mapping] = field(default_factory=dict)  # seed → metrics.json
    summary: Mapping | None = None  # metrics.json that `summarize` writes
    histories: Mapping[str, Path] = field(default_factory=dict)  # step → history.csv
    benchmarks: Path | None = None
    paper_tables: Mapping = field(default_factory=dict)
    git_revision: str = "unknown"
    verdict: Verdict | None = None  # whether the files match the config; None outside of a run


def cluster_colours(inputs: ReportInputs) -> dict[str, StepColours]:
    """Step → colours of the first seed's clusters, see `step_colours`."""
    first = next(iter(inputs.metrics.values()), None)
    return step_colours(inputs.steps, len(inputs.settings["curation"]["names"]), first)


def read(paths: Sequence[Path], columns: list[str] | None = None) -> list[dict]:
    """All rows of shards; an empty list if there are no shards."""
    return shards.read_table(paths, columns).to_pylist() if paths else []
