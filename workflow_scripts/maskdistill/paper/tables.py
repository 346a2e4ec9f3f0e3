"""A run's numbers for the paper's tables and figures, next to the numbers that the paper prints.

A summary is the output of `summarize` (mean, sd and n over seeds) for one variant. A variant is the
run itself, or the run with one thing changed, see `runs.variants`. Scores are from 0 to 1, not in
percent; tables with the unit `count` hold numbers of patches.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import summary as seeds_summary
from workflow_scripts.maskdistill.paper import comparison
from workflow_scripts.maskdistill.paper.comparison import compare
from workflow_scripts.maskdistill.paper.items import NAMES
from workflow_scripts.maskdistill.runs.variants import BASELINES, MAIN, OF_OBJECTS

CSV_COLUMNS = ["table", "matching", "split", "images", "matched_on", "row", "column"]
CSV_COLUMNS += ["mean", "sd", "n", "paper", "difference", "comparable"]
# Table → its key in resources/paper_tables.json, and its rows. A row is: key of the paper's number,
# variant, step. `_components` adds rows to Table S1, for the CRF and for each CRF round.
_MIOU_TABLES = {
    "table_1": (
        "table1_components_voc_val_miou",
        [
            ("initial_masks", MAIN, "initial_masks"),
            ("mask_rcnn", MAIN, "mask_rcnn"),
            ("segmentation_without_hard_pixels", "all_pixels", "segmentation"),
            ("segmentation", MAIN, "segmentation"),
        ],
    ),
    "table_s1": (
        "tableS1_components_voc_val_miou",
        [
            ("initial_masks", MAIN, "initial_masks"),
            ("mask_rcnn_boxes", "boxes", "mask_rcnn_boxes"),
            ("mask_rcnn_boxes_grabcut", "boxes", "mask_rcnn_boxes_grabcut"),
            ("mask_rcnn_masks", MAIN, "mask_rcnn"),
            ("segmentation", MAIN, "segmentation"),
        ],
    ),
}
_AP = {"AP50": "ap50", "AP": "ap", "AP75": "ap75"}


def read_summaries(
    metrics: Sequence[Sequence[str]],
    instances: Sequence[Sequence[str]],
    linear_probes: Sequence[Sequence[str]],
    seeds: Sequence[int],
) -> dict[str, dict]:
    """Variant → its summary over seeds.

    Args:
        metrics, instances, linear_probes: lists of the name of a variant and one file per seed.
        seeds: seeds of the files, in their order.

    Raises:
        InputError: a variant does not have one file per seed, its files do not belong together, or
            the metrics of the run itself are missing.
    """

    def read(files: Sequence[str]) -> list[dict]:
        if len(files) != len(seeds):
            raise InputError(
                f"a variant has {len(files)} files, but there are {len(seeds)} seeds; give one "
                "file per seed"
            )
        return seeds_summary.read_runs([Path(file) for file in files])

    found: dict[str, dict] = {}
    for name, *files in metrics:
        found.setdefault(name, {}).update(seeds_summary.summarize(read(files)))
    for name, *files in instances:
        summary = seeds_summary.summarize_instances(read(files))
        found.setdefault(name, {})["instances"] = summary
    for name, *files in linear_probes:
        found.setdefault(name, {})["linear_probe"] = seeds_summary.summarize(read(files))
    if "steps" not in found.get(MAIN, {}):
        raise InputError(
            f"--metrics {MAIN}: the metrics of the run itself are missing; give its metrics.json "
            "of every seed"
        )
    return found


def tables(
    item: str,
    summaries: Mapping[str, Mapping],
    sweep: Mapping[float, str],
    paper: Mapping,
    dataset: str,
) -> list[dict]:
    """The tables of one item. Each table of a figure becomes a chart; its row names are x values.

    Args:
        item: a key of `items.TITLES`.
        summaries: variant → summary.
        sweep: for a figure, value → variant.
        paper: content of resources/paper_tables.json.
        dataset: see `comparison.paper_dataset`.

    Returns:
        Dictionaries with `title`, `matching` (None if class-agnostic), `unit` ("fraction" or
        "count"), `evaluated_on` (`split` and number of `images`), `matched_on` (the same for the
        images on which clusters were matched with classes, if any) and `rows`: `name` and `cells`
        (column → result of `comparison.compare`). Numbers of Hungarian and of majority matching
        are never in the same table.

    Raises:
        InputError: variants were evaluated on different images.
    """
    if item in _MIOU_TABLES:
        found = _components(item, summaries, paper, dataset)
    elif item == "table_2":
        found = _protocols(summaries[MAIN], paper, dataset)
    elif item == "table_s2":
        found = _classes(summaries[MAIN], paper)
    elif item == "table_3":
        found = _instances(summaries, paper, dataset)
    else:
        found = _sweep(item, {value: summaries[name] for value, name in sweep.items()})
    evaluated_on, matched_on = _images(item, summaries)
    return [
        {
            **table,
            "evaluated_on": evaluated_on,
            "matched_on": matched_on if table["matching"] not in (None, "supervised") else None,
        }
        for table in found
    ]


def _images(item: str, summaries: Mapping[str, Mapping]) -> tuple[dict, dict]:
    """Split and number of the images that an item is scored on, and of those used for matching.

    Raises:
        InputError: variants were evaluated on different images.
    """
    if item in OF_OBJECTS:
        parts = {name: s["instances"] for name, s in summaries.items() if "instances" in s}
    else:
        parts = {name: s for name, s in summaries.items() if "steps" in s}
    found = {}
    for name, part in parts.items():
        own = {key: part[key] for key in ("split", "images")}
        # Only scores of objects have `matched_on`. For label maps, the clusters are matched with
        # classes on the evaluated images.
        found[name] = own, dict(part.get("matched_on", own))
    first, *others = found
    for name in others:
        if found[name] != found[first]:
            raise InputError(
                f"{item}: the variants {first} and {name} were evaluated on different images; "
                "evaluate both again"
            )
    return found[first]


def _table(title: str, matching: str | None, rows: Sequence[Mapping], unit: str) -> dict:
    return {"title": title, "matching": matching, "unit": unit, "rows": list(rows)}


def _by_matching(
    title: str, rows: Sequence[tuple[Sequence[str], Mapping]], unit: str = "fraction"
) -> Iterator[dict]:
    """One table for each matching method; `rows` are pairs of the methods and a table row."""
    for method in dict.fromkeys(" and ".join(methods) for methods, _ in rows):
        members = [row for methods, row in rows if " and ".join(methods) == method]
        yield _table(title, method, members, unit)


def _components(item: str, summaries: Mapping, paper: Mapping, dataset: str) -> Iterator[dict]:
    key, wanted = _MIOU_TABLES[item]
    published = paper.get(key, {}) if dataset == "voc" else {}
    rows = []
    for name, variant, step in wanted:
        values = summaries[variant]["steps"][step]
        comparable = values["matching"] == ["hungarian"]
        cell = compare(values["miou"], published.get(name) if comparable else None)
        rows.append((values["matching"], {"name": name, "cells": {"mIoU": cell}}))
    if item == "table_s1":
        rows += _segmentations(summaries[MAIN], paper, dataset)[1:]
    return _by_matching("mIoU", rows)


def _segmentations(
    summary: Mapping, paper: Mapping, dataset: str
) -> list[tuple[Sequence[str], Mapping]]:
    """Matching methods and table row of each segmentation: without CRF, with CRF, and by round."""
    return [
        (
            values["matching"],
            {
                "name": step,
                "cells": {"mIoU": comparison.step_miou(summary, step, paper, dataset)},
            },
        )
        for step, values in summary["steps"].items()
        if step.startswith("segmentation")
    ]


def _protocols(summary: Mapping, paper: Mapping, dataset: str) -> Iterator[dict]:
    yield from _by_matching("Clustering", _segmentations(summary, paper, dataset))
    rows = [
        {"name": name, "cells": {"mIoU": cell}}
        for name, cell in comparison.linear_miou(summary, paper, dataset).items()
    ]
    title = f"Linear probe, with labels{_of_training_images(summary)}"
    yield _table(title, "supervised", rows, "fraction")


def _of_training_images(summary: Mapping) -> str:
    """A note if a linear probe is evaluated on its training images."""
    return ", scored on its training images" if summary["split"] == "train" else ""


def _classes(summary: Mapping, paper: Mapping) -> Iterator[dict]:
    for method, columns in comparison.class_tables(summary, paper):
        members = [name for name in columns if name.startswith(("segmentation", "linear_probe"))]
        rows = [
            {"name": class_name, "cells": {name: columns[name][class_name] for name in members}}
            for class_name in summary["class_names"]
        ]
        title = "IoU by class"
        if method == "supervised":
            title += _of_training_images(summary)
        if members:
            yield _table(title, method, rows, "fraction")


def _instances(summaries: Mapping, paper: Mapping, dataset: str) -> Iterator[dict]:
    steps = {
        name.removesuffix("_seg"): summaries[name]["instances"]["steps"]["initial_masks"]
        for name in BASELINES
    }
    main = summaries[MAIN]
    steps |= main["instances"]["steps"]
    merged = {**main, "instances": {**main["instances"], "steps": steps}}
    for table in comparison.instance_tables(merged, paper, dataset):
        rows = [
            {"name": row["step"], "cells": dict(zip(_AP, row["cells"], strict=True))}
            for row in table["rows"]
        ]
        yield _table(table["title"], table["matching"], rows, "fraction")


def _sweep(item: str, by_value: Mapping[float, Mapping]) -> Iterator[dict]:
    if item == "figure_5":
        for step in _common(by_value.values(), lambda summary: summary["steps"]):
            rows = [
                (s["steps"][step]["matching"], _row(value, {"mIoU": s["steps"][step]["miou"]}))
                for value, s in by_value.items()
            ]
            yield from _by_matching(f"{NAMES[step]}: mIoU", rows)
        return
    found = {value: summary["instances"]["steps"] for value, summary in by_value.items()}
    for step in _common(found.values(), lambda steps: steps):
        if item == "figure_4":
            rows = [
                _row(value, {"proposals": steps[step]["proposals_per_mask"]})
                for value, steps in found.items()
                if "proposals_per_mask" in steps[step]
            ]
            if rows:
                yield _table("Patches that vote for a mask", None, rows, "count")
        # Class-agnostic scores of initial masks do not depend on the number of clusters.
        if (item, step) != ("figure_3", "initial_masks"):
            rows = [_row(v, _ap(steps[step]["class_agnostic_multi"])) for v, steps in found.items()]
            yield _table(f"{NAMES[step]}: class-agnostic mask AP", None, rows, "fraction")
        rows = [
            (steps[step]["matching"], _row(value, _ap(steps[step]["class_aware_multi"])))
            for value, steps in found.items()
        ]
        yield from _by_matching(f"{NAMES[step]}: class-aware mask AP", rows)


def _common(groups, steps_of) -> list[str]:
    """Steps that all variants have, in the order of the first variant; `main` may have more."""
    groups = [steps_of(group) for group in groups]
    return [
        step
        for step in groups[0]
        if step in NAMES and "_crf" not in step and all(step in group for group in groups)
    ]


def _row(value: float, numbers: Mapping[str, Mapping]) -> dict:
    return {
        "name": f"{value:g}",
        "cells": {column: compare(ours, None) for column, ours in numbers.items()},
    }


def _ap(values: Mapping) -> dict:
    return {column: values[key] for column, key in _AP.items()}


def csv_rows(tables: Sequence[Mapping], *, comparable: bool) -> Iterator[dict]:
    """Tables as rows of a CSV file, one per number, with the evaluated images.

    Args:
        comparable: whether the numbers are comparable to the paper's, see `comparison.obstacles`.
    """
    for table in tables:
        for row in table["rows"]:
            for column, cell in row["cells"].items():
                yield {
                    "table": table["title"],
                    "matching": table["matching"] or "",
                    "split": table["evaluated_on"]["split"],
                    "images": table["evaluated_on"]["images"],
                    "matched_on": (table["matched_on"] or {}).get("split", ""),
                    "row": row["name"],
                    "column": column,
                    **cell["ours"],
                    "paper": cell["paper"],
                    "difference": cell["difference"],
                    "comparable": "yes" if comparable else "no",
                }


def split_overclustering(tables: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """Divide tables into those without and those with majority matching.

    If none of them has Hungarian matching, all are in the first list.
    """
    majority = [table for table in tables if "majority" in (table["matching"] or "")]
    if not any(table["matching"] == "hungarian" for table in tables):
        return list(tables), []
    return [table for table in tables if table not in majority], majority
