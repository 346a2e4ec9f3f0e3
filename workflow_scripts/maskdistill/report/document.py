"""The report as one HTML page."""

import datetime
from collections.abc import Mapping, Sequence

from workflow_scripts.maskdistill.data import folders
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.pictures import charts, html_pages
from workflow_scripts.maskdistill.report import figures, illustrations, run_tables, scores, times
from workflow_scripts.maskdistill.report.inputs import ReportInputs, cluster_colours, read

REJECTED_SHOWN = 200  # most rows of the table of rejected images
DIFFERENCES_SHOWN = 20  # most files listed as not matching the config


def render(inputs: ReportInputs) -> str:
    """The report as one self-contained HTML document.

    Without metrics, the sections that need ground truth are left out, and no label is read.

    Raises:
        InputError: an input is missing, damaged, or does not fit the others.
    """
    if inputs.split not in inputs.images:
        raise InputError(f"split '{inputs.split}': its manifest is missing; add it to --images")
    manifest = {split: read(paths) for split, paths in inputs.images.items()}
    clusters = cluster_colours(inputs)
    examples = illustrations.examples(inputs, manifest[inputs.split], clusters)
    scored = inputs.summary is not None and bool(inputs.metrics)
    return html_pages.render(
        "workflow_scripts/maskdistill/templates/report.html.j2",
        filters={
            "bars": charts.bars,
            "percent": _percent,
            "signed": _signed,
            "duration": _duration,
            "plain": _plain,
        },
        dataset=inputs.dataset,
        split=inputs.split,
        titles={name: step_title(name) for name in inputs.steps},
        date=datetime.datetime.now(datetime.UTC),
        git_revision=inputs.git_revision,
        verdict=inputs.verdict,
        differences_shown=DIFFERENCES_SHOWN,
        versions=provenance.versions(),
        settings=run_tables.sections(inputs.settings),
        sources=run_tables.sources(inputs),
        findings=inputs.findings,
        counts=run_tables.counts(inputs, manifest),
        usable={
            split: sum(row["status"] == shards.OK for row in rows)
            for split, rows in manifest.items()
        },
        rejected=[
            {"split": split, **row}
            for split, rows in manifest.items()
            for row in rows
            if row["status"] != shards.OK
        ],
        rejected_shown=REJECTED_SHOWN,
        skipped={split: folders.read_skipped(paths) for split, paths in inputs.images.items()},
        timings=times.timings(inputs.benchmarks, inputs.images, inputs.settings["seeds"]),
        scores=scores.score_tables(inputs) if scored else None,
        legend=illustrations.legend(inputs, clusters),
        colours_shown={c for e in examples for p in e["pictures"] for c in p["colours"]},
        examples=examples,
        clusters=illustrations.contact_sheets(inputs, manifest, clusters),
        losses=[
            chart
            for step, path in inputs.histories.items()
            if (chart := figures.loss(step_title(step), path))
        ],
    )


def _percent(value: float | Mapping | None) -> str:
    """A fraction, or mean and sd of fractions, in percent with one decimal."""
    if isinstance(value, Mapping):
        spread = "" if value["sd"] is None else f" ± {100 * value['sd']:.1f}"
        return _percent(value["mean"]) + spread
    return "–" if value is None else f"{100 * value:.1f}"


def _signed(value: float | None) -> str:
    """A difference of fractions in percentage points."""
    return "–" if value is None else f"{100 * value:+.1f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _plain(value: object) -> str:
    """A setting as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
