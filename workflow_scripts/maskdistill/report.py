"""One HTML file that shows what a run did: pictures, clusters, scores, losses, times."""

import csv
import datetime
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

from workflow_scripts.maskdistill import comparison, drawing, images, label_maps, masks, shards
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.ground_truth import GroundTruth
from workflow_scripts.maskdistill.matching import stored_mapping
from workflow_scripts.maskdistill.metrics import UNMATCHED, matched_counts

PICTURE_SIZE = 320  # longer side of an example, in pixels
CROP_SIZE = 96
REJECTED_SHOWN = 200  # rows of the table of rejected images
CHART_POINTS = 300  # points of a loss curve

STEP_TITLES = {
    "initial_masks": "Initial masks",
    "mask_rcnn": "Mask R-CNN",
    "segmentation": "Segmentation",
    "segmentation_crf": "Segmentation + CRF",
    "linear_probe": "Linear probe",
    "linear_probe_crf": "Linear probe + CRF",
}

# Path of a rule's benchmark file, without split, round and numbers → rule, in the workflow's order.
RULES = {
    "make_demo_dataset": "make_demo_dataset",
    "images/*": "list_images",
    "features/*": "extract_features",
    "masks/*": "make_masks",
    "mask_embeddings/*": "embed_masks",
    "seed/clusters/assignments": "cluster_masks",
    "seed/assignments/*": "assign_masks",
    "seed/initial_label_maps/*": "paint_masks",
    "seed/pseudo_labels": "write_pseudo_labels",
    "seed/mask_rcnn/model": "train_mask_rcnn",
    "seed/candidates/*": "predict_candidates",
    "seed/candidates": "write_results",
    "seed/confident/*": "filter_candidates",
    "seed/segmentation/model": "train_segmentation",
    "seed/predictions/*": "predict_segmentation",
    "seed/predictions_crf/*": "refine_predictions",
    "seed/metrics": "evaluate",
    "seed/instances": "evaluate_instances",
    "ground_truth/*": "write_ground_truth",
    "seed/linear_probe/model": "train_linear_probe",
    "seed/linear_probe/*": "predict_linear_probe",
    "seed/linear_probe_crf/*": "refine_linear_probe",
    "seed/linear_probe": "evaluate_linear_probe",
    "metrics": "summarize",
    "unpacked_label_maps": "unpack_label_maps",
    "unpacked_predictions": "unpack_label_maps",
    "gallery": "write_gallery",
    "seed/contact_sheets": "draw_contact_sheets",
    **dict.fromkeys(
        (
            f"exports/{name}"
            for name in ("coco", "voc", "fiftyone", "label_studio", "huggingface", "yolo")
        ),
        "export_dataset",
    ),
    "exports/model": "export_model",
    "label_maps": "write_applied",
}

ShardsBySplit = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a report is made of; of several seeds, the pictures are those of the first."""

    dataset: str
    split: str  # shown in the examples, and scored if there is ground truth
    root: Path
    settings: Mapping  # the dataset's whole merged config
    images: ShardsBySplit  # manifests
    masks: ShardsBySplit
    assignments: Sequence[Path]
    steps: Mapping[str, Sequence[Path]]  # step → shards of label maps of `split`
    candidates: ShardsBySplit = field(default_factory=dict)
    confident: ShardsBySplit = field(default_factory=dict)
    metrics: Mapping[str, Mapping] = field(default_factory=dict)  # seed → metrics.json
    summary: Mapping | None = None  # metrics.json of summarize
    histories: Mapping[str, Path] = field(default_factory=dict)  # training → history.csv
    benchmarks: Path | None = None
    paper_tables: Mapping = field(default_factory=dict)
    git_revision: str = "unknown"


def render(inputs: Inputs) -> str:
    """The report as one HTML document that loads nothing from anywhere.

    Without metrics, the sections that need ground truth are left out, and no label is read.

    Raises:
        InputError: an input is missing, damaged, or does not fit the others.
    """
    if inputs.split not in inputs.images:
        raise InputError(f"split '{inputs.split}': no manifest of it is given; add it to --images")
    manifest = {split: _read(paths) for split, paths in inputs.images.items()}
    clusters = cluster_colours(inputs)
    examples = _examples(inputs, manifest[inputs.split], clusters)
    scored = inputs.summary is not None and bool(inputs.metrics)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "signed": _signed,
        "duration": _duration,
        "plain": _plain,
    }
    return environment.get_template("report.html.j2").render(
        dataset=inputs.dataset,
        split=inputs.split,
        titles={name: step_title(name) for name in inputs.steps},
        date=datetime.datetime.now(datetime.UTC),
        git_revision=inputs.git_revision,
        versions=shards.provenance("report", {})["versions"],
        settings=_sections(inputs.settings),
        sources=_sources(inputs),
        counts=_counts(inputs, manifest),
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
        timings=_timings(inputs),
        scores=_scores(inputs) if scored else None,
        legend=_legend(inputs, clusters),
        colours_shown={c for e in examples for p in e["pictures"] for c in p["colours"]},
        examples=examples,
        clusters=_contact_sheets(inputs, manifest, clusters),
        losses=[
            chart for name, path in inputs.histories.items() if (chart := _loss_chart(name, path))
        ],
    )


def step_title(name: str) -> str:
    """A step's name for people."""
    if name in STEP_TITLES:
        return STEP_TITLES[name]
    base = name.removesuffix("_crf")
    return base.replace("_", " ").capitalize() + (" + CRF" if base != name else "")


def _read(paths: Sequence[Path], columns: list[str] | None = None) -> list[dict]:
    return shards.read_table(paths, columns).to_pylist() if paths else []


# Clusters and their colours


@dataclass(frozen=True)
class StepColours:
    """How one step's clusters are painted."""

    colours: np.ndarray  # C + 1 x 3 uint8
    classes: list[str | None]  # C + 1 names of the matched classes


def cluster_colours(inputs: Inputs) -> dict[str, StepColours]:
    """Colours of the clusters, those that were merged as one, in every step.

    Without ground truth a cluster has its own colour of VOC's palette. With it, a cluster wears
    the colour of the class that it is matched with in that step, so that prediction and ground
    truth compare at a glance; unmatched clusters have colours that no class has.

    Returns:
        Step → colours.
    """
    first = next(iter(inputs.metrics.values()), None)
    return step_colours(inputs.steps, len(inputs.settings["curation"]["names"]), first)


def step_colours(
    steps: Iterable[str], clusters: int, metrics: Mapping | None
) -> dict[str, StepColours]:
    """Colours of the clusters in these steps, see `cluster_colours`.

    Args:
        metrics: metrics.json of one seed, or None without ground truth.
    """
    numbers = np.arange(clusters + 1)
    if metrics is None:
        return dict.fromkeys(
            steps, StepColours(label_maps.colours(numbers), [None] * (clusters + 1))
        )
    names = metrics["class_names"]
    result = {}
    for step in steps:
        mapping = stored_mapping(metrics, step)
        # Labels beyond the classes' give the unmatched clusters colours that are left.
        labels = np.where(mapping == UNMATCHED, len(names) - 1 + numbers, mapping)
        classes = [None if m == UNMATCHED else names[m] for m in mapping]
        result[step] = StepColours(label_maps.colours(labels), classes)
    return result


def _legend(inputs: Inputs, clusters: Mapping[str, StepColours]) -> list[dict]:
    """Colours and what they stand for: classes where there is ground truth, else clusters."""
    own_names = ["background", *inputs.settings["curation"]["names"]]
    if not inputs.metrics:
        colours = next(iter(clusters.values())).colours if clusters else np.zeros((0, 3))
        return [
            {"name": own_names[i], "colour": drawing.css_colour(colour)}
            for i, colour in enumerate(colours)
            if i > 0
        ]
    names = next(iter(inputs.metrics.values()))["class_names"]
    entries = [
        {"name": name, "colour": drawing.css_colour(label_maps.colours(np.array(i)))}
        for i, name in enumerate(names)
        if i > 0
    ]
    unmatched = {
        cluster: colours.colours[cluster]
        for colours in clusters.values()
        for cluster, name in enumerate(colours.classes)
        if name is None
    }
    for cluster, colour in sorted(unmatched.items()):
        entries.append(
            {"name": f"{own_names[cluster]}, unmatched", "colour": drawing.css_colour(colour)}
        )
    return entries


# Pictures


def _examples(
    inputs: Inputs, manifest: Sequence[Mapping], clusters: Mapping[str, StepColours]
) -> list[dict]:
    """Images, evenly over the split in the order of their names, with every step's label map."""
    usable = sorted((r for r in manifest if r["status"] == shards.OK), key=lambda r: r["file_name"])
    count = min(inputs.settings["report"]["examples"], len(usable))
    # The middles of `count` equal stretches of the list.
    chosen = [usable[int((i + 0.5) * len(usable) / count)] for i in range(count)]
    ids = {row["image_id"] for row in chosen}
    found = {
        step: {
            row["image_id"]: row["image"]["bytes"]
            for path in paths
            for row in shards.read_rows(path)
            if row["image_id"] in ids
        }
        for step, paths in inputs.steps.items()
    }
    truth = None
    if inputs.metrics:
        truth = GroundTruth(inputs.settings["dataset"], inputs.root, inputs.split)
    result = []
    for row in chosen:
        image = images.read_image(inputs.root / row["file_name"])
        small = drawing.thumbnail(image, PICTURE_SIZE)
        pictures = [{"title": "Image", "uri": drawing.data_uri(small), "colours": set()}]
        if truth is not None:
            labels = truth.semantic(row["image_id"], row["file_name"])
            colours = label_maps.colours(np.arange(len(truth.class_names) + 1))
            pictures.append(_painted("Ground truth", small, labels, colours))
        for step, label_map in found.items():
            if row["image_id"] not in label_map:
                raise InputError(f"{row['file_name']}: no label map in step '{step}'; run it again")
            labels = label_maps.decode_png(label_map[row["image_id"]])
            pictures.append(_painted(step_title(step), small, labels, clusters[step].colours))
        result.append({"file_name": row["file_name"], "pictures": pictures})
    return result


def _painted(title: str, image: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> dict:
    labels = np.where(labels == label_maps.ignore_value(labels), 0, labels)
    labels = drawing.thumbnail_labels(labels, PICTURE_SIZE)
    # Clusters that stand for background have its colour and are shown as background.
    labels[(colours == 0).all(axis=1)[labels]] = 0
    return {
        "title": title,
        "uri": drawing.data_uri(drawing.overlay(image, labels, colours)),
        "colours": {drawing.css_colour(colours[label]) for label in np.unique(labels)},
    }


def _contact_sheets(
    inputs: Inputs,
    manifest: Mapping[str, Sequence[Mapping]],
    clusters: Mapping[str, StepColours],
) -> list[dict]:
    """For every cluster its size, its class, and the masks nearest to its centroid."""
    members = defaultdict(list)
    for row in _read(inputs.assignments):
        members[row["cluster"]].append((row["distance"], row["image_id"], row["mask_id"]))
    file_names = {
        row["image_id"]: row["file_name"]
        for rows in manifest.values()
        for row in rows
        if row["status"] == shards.OK
    }
    chosen = {
        cluster: [m for m in sorted(found) if m[1] in file_names][
            : inputs.settings["report"]["crops"]
        ]
        for cluster, found in members.items()
    }
    crops = _crops(inputs, {m[1:] for found in chosen.values() for m in found}, file_names)
    # The first step is the one whose label maps are the clusters' own masks.
    first = next(iter(clusters.values()), None)
    curation = inputs.settings["curation"]
    count = inputs.settings["clustering"]["clusters"]
    sheets = []
    for cluster, label in enumerate(curation["classes"] or range(1, count + 1), start=1):
        sheets.append(
            {
                "cluster": cluster,
                "name": curation["names"][label - 1] if label else "background",
                "size": len(members[cluster]),
                "class_name": first.classes[label] if first else None,
                "colour": drawing.css_colour(first.colours[label]) if first else None,
                "crops": [
                    {"uri": crops[m[1:]], "file_name": file_names[m[1]], "distance": m[0]}
                    for m in chosen.get(cluster, [])
                    if m[1:] in crops
                ],
            }
        )
    return sheets


def _crops(
    inputs: Inputs, wanted: set[tuple[int, int]], file_names: Mapping[int, str]
) -> dict[tuple[int, int], str]:
    """(image_id, mask_id) → data URI; every image is read once."""
    columns = ["image_id", "mask_id", "rle_counts", "height", "width"]
    by_image = defaultdict(dict)
    for paths in inputs.masks.values():
        for path in paths:
            for row in shards.read_rows(path, columns):
                if (row["image_id"], row["mask_id"]) in wanted:
                    by_image[row["image_id"]][row["mask_id"]] = row
    result = {}
    for image_id, rows in by_image.items():
        image = images.read_image(inputs.root / file_names[image_id])
        for mask_id, row in rows.items():
            mask = masks.decode(row["rle_counts"], row["height"], row["width"])
            crop = drawing.masked_crop(image, mask, CROP_SIZE)
            result[image_id, mask_id] = drawing.data_uri(crop, quality=80)
    return result


# Numbers


def _scores(inputs: Inputs) -> dict:
    """Everything about metrics, for the template."""
    first = next(iter(inputs.metrics.values()))
    summary, paper = inputs.summary, inputs.paper_tables
    names = first["class_names"]
    dataset = comparison.paper_dataset(inputs.settings)
    steps = {}
    for step, values in summary["steps"].items():
        mapping = stored_mapping(first, step)
        steps[step] = {
            **values,
            "title": step_title(step),
            "cell": comparison.step_miou(summary, step, paper, dataset),
            "by_seed": [run["steps"][step]["miou"] for run in inputs.metrics.values()],
            "classes": [None if m == UNMATCHED else names[m] for m in mapping],
            "heat_map": _confusion_figure(first, step, mapping),
        }
    class_iou = comparison.class_iou(summary, paper)
    return {
        "steps": list(steps.values()),
        "groups": [
            {"method": method, "steps": [steps[step] for step in members]}
            for method, members in comparison.step_groups(summary).items()
        ],
        "linear": [
            {**summary["linear_probe"]["steps"][step], "title": step_title(step), "cell": cell}
            for step, cell in comparison.linear_miou(summary, paper, dataset).items()
        ],
        "instances": [
            {**table, "rows": [{**r, "title": step_title(r["step"])} for r in table["rows"]]}
            for table in comparison.instance_tables(summary, paper, dataset)
        ],
        "masks": [
            {**step, "title": step_title(name)}
            for name, step in summary.get("instances", {"steps": {}})["steps"].items()
        ],
        "calibration": _calibration_figure(summary),
        "obstacles": comparison.obstacles(inputs.settings, summary),
        "seeds": list(inputs.metrics),
        "images": summary["images"],
        "class_columns": [
            {
                "title": step_title(step),
                "paper": any(cell["paper"] is not None for cell in cells.values()),
            }
            for step, cells in class_iou.items()
        ],
        "per_class": [
            {
                "name": name,
                "colour": drawing.css_colour(label_maps.colours(np.array(i))),
                "cells": [cells[name] for cells in class_iou.values()],
            }
            for i, name in enumerate(names)
        ],
        "cluster_names": inputs.settings["curation"]["names"],
    }


def _calibration_figure(summary: Mapping) -> dict | None:
    """Mask IoU of the candidates over their score; None without candidates."""
    steps = summary.get("instances", {"steps": {}})["steps"]
    found = steps.get("mask_rcnn", {}).get("calibration", {"bins": []})
    bins = [row for row in found["bins"] if row["score"]["mean"] is not None]
    if not bins:
        return None
    x = [row["score"]["mean"] for row in bins]
    series = {
        "mask IoU with the best object": [row["iou"]["mean"] for row in bins],
        "share with an IoU above 0.5": [row["hit_rate"]["mean"] for row in bins],
        "equal to the score": x,
    }
    return {
        "names": list(series),
        "svg": drawing.line_chart(
            {name: drawing.Series(x, y) for name, y in series.items()},
            x_label="score of the candidate, mean of ten intervals",
            y_label="mean",
        ),
        "rank_correlation": found["rank_correlation"],
        "bins": bins,
    }


def _confusion_figure(metrics: Mapping, step: str, mapping: np.ndarray) -> str:
    """Rows are classes and sum to 1; columns are the classes that their pixels are taken for."""
    counts = np.array(metrics["steps"][step]["confusion_matrix"], dtype=np.int64)
    matched = matched_counts(counts, mapping)
    names = metrics["class_names"]
    columns = [*names, "no class"]
    if not matched[:, -1].any():
        matched, columns = matched[:, :-1], names
    shares = matched / np.maximum(matched.sum(axis=1, keepdims=True), 1)
    return drawing.heat_map(shares, names, columns)


def _loss_chart(name: str, path: Path) -> dict | None:
    """The loss of one training, averaged over short stretches; None if nothing was recorded."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: no such loss history; train again") from None
    if not rows:
        return None
    # Parts of the loss are further columns: loss_mask, loss_classifier, …
    columns = [column for column in rows[0] if column.startswith("loss")]
    if "step" not in rows[0] or "loss" not in columns:
        raise InputError(f"{path}: a loss history has the columns step and loss; train again")
    series = {}
    for column in columns:
        known = [(float(r["step"]), float(r[column])) for r in rows if r[column]]
        if known:
            points = np.array(known)
            parts = np.array_split(points, min(CHART_POINTS, len(points)))
            series[column] = drawing.Series(*np.array([p.mean(axis=0) for p in parts]).T.tolist())
    return {
        "title": name,
        "names": list(series),
        "svg": drawing.line_chart(series, x_label="step", y_label="loss"),
        "steps": int(float(rows[-1]["step"])),
        "first": series["loss"].y[0],
        "last": series["loss"].y[-1],
    }


def _timings(inputs: Inputs) -> list[dict]:
    """Time and memory of every rule, from Snakemake's benchmark files."""
    if inputs.benchmarks is None or not inputs.benchmarks.is_dir():
        return []
    jobs = defaultdict(list)
    splits = set(inputs.images)
    for path in sorted(inputs.benchmarks.rglob("*.tsv")):
        if "ablations" in path.relative_to(inputs.benchmarks).parts:
            continue  # no part of the run
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rule = rule_of_benchmark(path.relative_to(inputs.benchmarks), splits)
                jobs[rule].append((_float(row.get("s")), _float(row.get("max_rss"))))
    total = sum(seconds for found in jobs.values() for seconds, _ in found)
    order = {rule: i for i, rule in enumerate(RULES.values())}
    return [
        {
            "rule": rule,
            "jobs": len(found),
            "sum": sum(seconds for seconds, _ in found),
            "max": max(seconds for seconds, _ in found),
            "memory": max(memory for _, memory in found),
            "share": sum(seconds for seconds, _ in found) / total if total else 0.0,
        }
        for rule, found in sorted(jobs.items(), key=lambda j: (order.get(j[0], len(order)), j[0]))
    ]


def rule_of_benchmark(path: Path, splits: Iterable[str]) -> str:
    """The rule that a benchmark file belongs to; its path has the stem of the rule's output.

    Args:
        path: relative to the dataset's benchmarks, e.g. `seed-0/val/candidates/0003.tsv`.
        splits: names of the dataset's splits.
    """
    parts = []
    # Folders of new images, applied/NAME, are like splits.
    for part in re.sub(r"(^|/)applied/[^/]+/", r"\1", path.with_suffix("").as_posix()).split("/"):
        if part.startswith("seed-"):
            parts.append("seed")
        elif part.isdigit():
            parts.append("*")
        elif part not in splits and not part.startswith("round-"):
            parts.append(part)
    name = "/".join(parts)
    return RULES.get(name, name)


def _float(text: str | None) -> float:
    """A cell of a benchmark file; Snakemake writes `-` or `NA` where it could not measure."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _counts(inputs: Inputs, manifest: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """What every stage made of its images: rows, images, and rows by status."""
    result = []
    for split, rows in manifest.items():
        statuses = Counter("ok" if row["status"] == shards.OK else "rejected" for row in rows)
        result.append(_count("images", split, rows, statuses))
    for split, paths in inputs.masks.items():
        rows = _read(paths, ["image_id", "status"])
        result.append(_count("masks", split, rows, Counter(row["status"] for row in rows)))
    for stage, by_split in (("candidates", inputs.candidates), ("confident", inputs.confident)):
        for split, paths in by_split.items():
            rows = _read(paths, ["image_id"])
            empty = len(
                {r["image_id"] for r in manifest.get(split, []) if r["status"] == shards.OK}
                - {row["image_id"] for row in rows}
            )
            statuses = {"images without any": empty} if empty else {}
            result.append(_count(stage, split, rows, statuses))
    return result


def _count(stage: str, split: str, rows: Sequence[Mapping], statuses: Mapping[str, int]) -> dict:
    return {
        "stage": stage,
        "split": split,
        "rows": len(rows),
        "images": len({row["image_id"] for row in rows}),
        "statuses": sorted(statuses.items(), key=lambda item: (item[0] != shards.OK, item[0])),
    }


# Settings


def _sections(settings: Mapping) -> list[dict]:
    """The config by stage; deeper levels become dotted names."""
    return [
        {
            "name": name,
            "rows": list(_flat(value) if isinstance(value, Mapping) else [("", value)]),
        }
        for name, value in settings.items()
    ]


def _flat(tree: Mapping, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _sources(inputs: Inputs) -> list[tuple[str, str, object]]:
    """What shards say of their making besides settings and versions, e.g. checksums of weights."""
    first_files = [
        paths[0]
        for by_name in (inputs.masks, inputs.candidates, inputs.confident, inputs.steps)
        for paths in by_name.values()
        if paths
    ]
    found = {}
    for path in [*first_files, *inputs.assignments[:1]]:
        metadata = shards.read_metadata(path)
        stage = metadata.pop("stage", "")
        details = {k: v for k, v in metadata.items() if k not in ("settings", "versions")}
        found |= {(stage, key): value for key, value in _flat(details)}
    return [(stage, key, value) for (stage, key), value in found.items()]


# Filters of the template


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
    """A setting as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
