"""The results as tables in Markdown, aligned so that a terminal shows them well, too."""

import json
from collections.abc import Mapping, Sequence

from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files.json_io import leaves

# Rules of the workflow that compute masks.
MASK_RULES = ("make_masks", "extract_masks", "find_baseline_masks")
_NONE = "–"


def table(measured: Mapping) -> str:
    """All tables: for every transformer, masks with their clusters, later steps, and costs.

    Args:
        measured: see `measure.measure`.
    """
    parts = [_about(measured)]
    for one in measured["transformers"]:
        parts += [f"### {one['backbone']}, shorter side {one['shorter_side']} px"]
        own = [f"`{key}: {json.dumps(value)}`" for key, value in leaves(one["settings"])]
        parts += [f"Own settings: {', '.join(own)}."] if own else []
        parts.append(_masks(one))
        parts += [f"{row['title']}: {row['note']}." for row in one["rows"] if row.get("note")]
        parts += [_steps(one["steps"])] if one["steps"] else []
        parts += [_costs(one["costs"])] if one["costs"] else []
    return "\n\n".join(parts) + "\n"


def _about(measured: Mapping) -> str:
    images, machine = measured["images"], measured["machine"]
    return (
        f"{images['val']:,} photographs of val; clusters and models learn from {images['train']:,} "
        f"of train; {measured['clusters']} clusters, seeds {_listed(measured['seeds'])}. "
        f"{machine['cores']} cores, {machine['gpu'] or 'no GPU'}, torch {machine['torch']}, "
        f"{machine['date']}.\n\n"
        "In percent. IoU with all labelled foreground (mean over photographs), and of each class "
        "in a photograph with its best mask (mean over classes in photographs), ± standard error "
        "over photographs; share of the photograph that masks cover; photographs with a mask that "
        "later stages use. Clusters: mIoU of masks painted with their clusters, after Hungarian "
        "matching; NMI and purity of masks against the class that most of their labelled pixels "
        "have; mean ± deviation over seeds."
    )


def _masks(one: Mapping) -> str:
    lines = []
    for row in one["rows"]:
        masks, clusters, costs = row["masks"] or {}, row["clusters"] or {}, row["costs"]
        lines.append(
            [
                row["title"],
                _percent(masks.get("foreground_iou"), "standard_error"),
                _percent(masks.get("best_iou"), "standard_error"),
                _percent(masks.get("share"), None),
                _NONE if masks.get("used") is None else f"{100 * masks['used']:.1f}",
                *(_percent(clusters.get(key), "sd") for key in ("miou", "nmi", "purity")),
                next((_seconds(costs[rule]) for rule in MASK_RULES if rule in costs), _NONE),
            ]
        )
    header = ["masks", "foreground IoU", "best-mask IoU", "share", "with a mask"]
    return _aligned([*header, "cluster mIoU", "NMI", "purity", "s per image"], lines)


def _steps(steps: Mapping) -> str:
    lines = [
        [step_title(name), _percent(step["miou"], "sd"), _percent(step["boundary_iou"], "sd")]
        for name, step in steps.items()
    ]
    return _aligned(["step", "mIoU", "boundary IoU"], lines)


def _costs(costs: Mapping) -> str:
    lines = [
        [
            rule,
            _seconds(cost),
            _NONE if cost["peak_mb"] is None else f"{cost['peak_mb']:,.0f}",
            str(cost["jobs"]),
        ]
        for rule, cost in costs.items()
    ]
    return _aligned(["stage", "s per image", "peak MB", "jobs"], lines)


def _seconds(cost: Mapping) -> str:
    return f"{cost['seconds_per_image']:.2g}"


def _percent(value: Mapping | None, spread: str | None) -> str:
    """A mean of fractions in percent, followed by its spread if `spread` names one."""
    if value is None or value["mean"] is None:
        return _NONE
    text = f"{100 * value['mean']:.1f}"
    if spread is None or value[spread] is None:
        return text
    return f"{text} ± {100 * value[spread]:.1f}"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown with aligned columns; numbers are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def text(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(text, [header, rule, *lines]))
