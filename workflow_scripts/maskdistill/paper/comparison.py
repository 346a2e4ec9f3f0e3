"""A run's numbers next to those of the paper, and reasons why the two are not comparable.

In all functions, `summary` is the content of a dataset's metrics.json, with means over seeds, which
the program `summarize` writes. `paper` is the content of resources/paper_tables.json. Scores are
from 0 to 1, except in `paper`, where they are in percent.
"""

import re
from collections.abc import Iterator, Mapping

from workflow_scripts.maskdistill.evaluation.step_titles import step_in_round

PAPER_TABLES = "resources/paper_tables.json"
PAPER_BACKBONE = "vit_small_patch16_224.dino"
# Dataset of the paper → numbers of classes, evaluated images and clusters.
PAPER_DATASETS = {"voc": (20, 1449, 20), "coco20k": (80, 19817, 80)}
# Number of images in the paper's Table 3 (mask AP); for VOC, all images with annotated objects.
PAPER_AP_IMAGES = {"voc": 2913, "coco20k": 19817}
AP_COLUMNS = ("ap50", "ap", "ap75")  # in the paper's order
AP_SETTINGS = {
    "class_agnostic_multi": "Class-agnostic, multi-object",
    "class_agnostic_single": "Class-agnostic, single object",
    "class_aware_multi": "Class-aware, multi-object",
    "class_aware_single": "Class-aware, single object",
}
_COMPONENTS = {
    "initial_masks": "initial_masks",
    "mask_rcnn": "mask_rcnn_masks",
    "segmentation": "segmentation",
    "segmentation_crf": "segmentation_crf",
}
_LINEAR = {"linear_probe": "maskdistill", "linear_probe_crf": "maskdistill_crf"}
_MATCHED_AS_IN_THE_PAPER = (["hungarian"], ["supervised"])
_CLASS_ROWS = {
    "segmentation": "maskdistill_clustering",
    "segmentation_crf": "maskdistill_crf_clustering",
    "linear_probe": "maskdistill_linear",
    "linear_probe_crf": "maskdistill_crf_linear",
}


def paper_dataset(settings: Mapping) -> str:
    """The paper's dataset to compare with: coco20k for a dataset in COCO's format, else voc."""
    return "coco20k" if settings["dataset"]["adapter"] == "coco" else "voc"


def obstacles(settings: Mapping, summary: Mapping) -> list[str]:
    """The differences from the paper's experiment; numbers are comparable only if there are none.

    Args:
        settings: the dataset's whole config.

    Returns:
        One phrase per difference. Weights are compared by the name of their file.
    """
    name = paper_dataset(settings)
    classes, images, clusters = PAPER_DATASETS[name]
    found = []
    if (len(summary["class_names"]) - 1, summary["images"]) != (classes, images):
        title = "PASCAL VOC 2012 val" if name == "voc" else "COCO20k"
        found.append(
            f"another dataset ({len(summary['class_names']) - 1} classes, {summary['images']} "
            f"images) than {title} ({classes} classes, {images} images)"
        )
    features = settings.get("features", {})
    if features.get("backbone") != PAPER_BACKBONE:
        found.append(f"another backbone than DINO's ViT-S/16: {features.get('backbone')}")
    elif "dino" not in str(features.get("weights") or PAPER_BACKBONE).lower():
        found.append(f"the backbone from {features['weights']}, not DINO's weights")
    if settings.get("embedding", {}).get("backbone") not in (None, PAPER_BACKBONE):
        found.append(f"masks embedded by another network: {settings['embedding']['backbone']}")
    replaced = {}
    if not settings.get("mask_rcnn", {}).get("enabled", True):
        replaced["mask_rcnn"] = "no Mask R-CNN"
    if settings.get("segmentation", {}).get("model", "deeplab") != "deeplab":
        replaced["segmentation"] = "another segmentation model than DeepLab-v3"
    for stage, title in (("mask_rcnn", "Mask R-CNN"), ("segmentation", "segmentation")):
        weights = settings.get(stage, {}).get("weights")
        if stage in replaced:
            found.append(replaced[stage])
        elif weights is None:
            found.append(f"{title} from randomly drawn weights, not MoCo's")
        elif "moco" not in str(weights).lower():
            found.append(f"{title} from {weights}, not MoCo's weights")
    if settings["clustering"]["clusters"] != clusters:
        found.append(f"{settings['clustering']['clusters']} clusters, not {clusters}")
    if "segmentation_crf" in summary["steps"] and not last_round(summary):
        found.append(
            "predictions that were only refined by the CRF, while the paper's numbers with CRF are "
            "of a model that was trained again on refined label maps (crf.rounds: 1)"
        )
    return found


def instance_obstacles(settings: Mapping, summary: Mapping) -> list[str]:
    """A further difference from the paper, which affects only mask AP: the number of images."""
    expected = PAPER_AP_IMAGES[paper_dataset(settings)]
    found = summary.get("instances")
    if found is None or found["images"] == expected:
        return []
    return [
        f"mask AP on {found['images']:,} images, not on the {expected:,} of the paper's Table 3"
    ]


def methods_of(step: Mapping) -> str:
    """The method that matched the step's clusters with classes; two methods if the seeds differ."""
    return " and ".join(step["matching"])


def step_groups(summary: Mapping) -> dict[str, list[str]]:
    """Matching method → names of the steps; steps of different methods are not comparable."""
    groups: dict[str, list[str]] = {}
    for name, step in summary["steps"].items():
        groups.setdefault(methods_of(step), []).append(name)
    return groups


def last_round(summary: Mapping) -> int:
    """Number of the last CRF round; 0 if there are no CRF rounds."""
    return sum(bool(re.fullmatch(r"segmentation_round_\d+", name)) for name in summary["steps"])


def paper_steps(summary: Mapping) -> dict[str, str]:
    """Step → its counterpart in the paper, named as in a run without CRF rounds.

    The paper's numbers without CRF belong to the first model. For its numbers with CRF, the paper
    trains a model again on label maps that the CRF has refined, and refines its predictions, too.
    The counterpart of this model is the model of the last CRF round. In a run without CRF rounds it
    is the first model, which `obstacles` reports. Other rounds have no counterpart.
    """
    found = {step: step for step in ("initial_masks", "mask_rcnn", "segmentation", "linear_probe")}
    for step in ("segmentation", "linear_probe"):
        found[f"{step_in_round(step, last_round(summary))}_crf"] = f"{step}_crf"
    return found


def compare(ours: Mapping, percent: float | None) -> dict:
    """One cell of a table: the run's mean, sd and n, the paper's number, and their difference.

    Args:
        percent: the paper's number, in percent as the paper prints it; None if there is none.

    Returns:
        `ours`, `paper`, and `difference`: the run's mean minus the paper's number.
    """
    paper = None if percent is None else round(percent / 100, 6)
    known = paper is not None and ours["mean"] is not None
    return {"ours": ours, "paper": paper, "difference": ours["mean"] - paper if known else None}


def step_miou(summary: Mapping, step: str, paper: Mapping, dataset: str) -> dict:
    """mIoU of a step next to the paper's number in its Tables 1, 2 and S1, which are for VOC.

    Scores of majority matching have no counterpart in the paper.
    """
    values = summary["steps"][step]
    key = _COMPONENTS.get(paper_steps(summary).get(step))
    if not paper or key is None or dataset != "voc" or values["matching"] != ["hungarian"]:
        return compare(values["miou"], None)
    return compare(values["miou"], paper["tableS1_components_voc_val_miou"][key])


def linear_miou(summary: Mapping, paper: Mapping, dataset: str) -> dict[str, dict]:
    """Step of the linear probe → mIoU next to the paper's Table 2; empty without a linear probe."""
    published = paper["table2_voc_val_miou"]["linear"] if paper and dataset == "voc" else {}
    counterparts = paper_steps(summary)
    return {
        step: compare(values["miou"], published.get(_LINEAR.get(counterparts.get(step))))
        for step, values in summary.get("linear_probe", {"steps": {}})["steps"].items()
    }


def instance_tables(summary: Mapping, paper: Mapping, dataset: str) -> Iterator[dict]:
    """Mask AP next to the paper's Table 3: one table per setting and matching method.

    Yields:
        `title`, `matching` (None if class-agnostic) and `rows`: step and three cells (AP50, AP,
        AP75).
    """
    if "instances" not in summary:
        return
    steps = summary["instances"]["steps"]
    for setting, title in AP_SETTINGS.items():
        aware = setting.startswith("class_aware")
        methods = {methods_of(step) for step in steps.values()} if aware else {None}
        for method in sorted(methods, key=str):
            rows = []
            for name, step in steps.items():
                if method not in (None, methods_of(step)):
                    continue
                triple = None
                if paper and method in (None, "hungarian"):
                    published = paper["table3_mask_ap"].get(f"{dataset}_{setting}", {})
                    triple = published.get(name)
                rows.append(
                    {
                        "step": name,
                        "cells": [
                            compare(step[setting][column], triple[i] if triple else None)
                            for i, column in enumerate(AP_COLUMNS)
                        ],
                    }
                )
            yield {"title": title, "matching": method, "rows": rows}


def class_iou(summary: Mapping, paper: Mapping) -> dict[str, dict[str, dict]]:
    """Step → class → IoU, next to the paper's Table S2 for VOC's classes; linear probes last."""
    rows = {}
    table = paper.get("tableS2_voc_val_iou", {"classes": [], "rows": {}})
    same = set(summary["class_names"]) == set(table["classes"])
    counterparts = paper_steps(summary)
    for part in (summary, summary.get("linear_probe", {"steps": {}})):
        for step, values in part["steps"].items():
            comparable = same and values["matching"] in _MATCHED_AS_IN_THE_PAPER
            row = _CLASS_ROWS.get(counterparts.get(step))
            published = table["rows"].get(row, {}) if comparable else {}
            rows[step] = {
                name: compare(iou, published.get(name)) for name, iou in values["per_class"].items()
            }
    return rows


def class_tables(summary: Mapping, paper: Mapping) -> Iterator[tuple[str, dict[str, dict]]]:
    """Pairs of a matching method and its part of `class_iou`; linear probes (`supervised`) last."""
    found = class_iou(summary, paper)
    steps = {**summary["steps"], **summary.get("linear_probe", {"steps": {}})["steps"]}
    for method in dict.fromkeys(map(methods_of, steps.values())):
        yield method, {n: found[n] for n, step in steps.items() if methods_of(step) == method}
