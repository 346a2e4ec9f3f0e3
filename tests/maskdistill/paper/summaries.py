"""Summaries over seeds, as `summarize` writes them, and the tables that they give."""

import json

from workflow_scripts.maskdistill.paper import comparison
from workflow_scripts.maskdistill.paper import tables as paper_tables
from workflow_scripts.maskdistill.repository import REPOSITORY

PAPER = json.loads((REPOSITORY / "resources" / "paper_tables.json").read_text(encoding="utf-8"))
VOC = PAPER["tableS2_voc_val_iou"]["classes"]


def mean(value, sd=0.01, n=3):
    return {"mean": value, "sd": sd, "n": n}


def step(miou, method="hungarian"):
    return {
        "matching": [method],
        "miou": mean(miou),
        "per_class": {name: mean(miou / 2) for name in VOC},
    }


def instances(ap, method="hungarian", proposals=12.0):
    triple = {"ap": mean(ap), "ap50": mean(2 * ap), "ap75": mean(ap / 2)}
    result = {"matching": [method], **dict.fromkeys(comparison.AP_SETTINGS, triple)}
    return {**result, "proposals_per_mask": mean(proposals)}


ON = {"split": "instances", "images": 2913, "matched_on": {"split": "val", "images": 1449}}


def summary(**parts):
    return {"class_names": VOC, "images": 1449, "split": "val", "steps": {}, **parts}


MAIN = summary(
    steps={
        "initial_masks": step(0.40),
        "mask_rcnn": step(0.41),
        "segmentation": step(0.46),
        "segmentation_crf": step(0.50),
    },
    linear_probe={"steps": {"linear_probe": step(0.6, "supervised")}},
    instances={**ON, "steps": {"initial_masks": instances(0.04), "mask_rcnn": instances(0.1)}},
)


def tables(item, others=None, sweep=None, paper=PAPER, dataset="voc"):
    return paper_tables.tables(item, {"main": MAIN, **(others or {})}, sweep or {}, paper, dataset)


def swept(*found):
    """(value, AP or mIoU, matching) of every variant."""
    others, sweep = {}, {}
    for value, number, method in found:
        sweep[value] = f"variant-{value}"
        others[sweep[value]] = summary(
            steps={"mask_rcnn": step(number, method)},
            instances={**ON, "steps": {"initial_masks": instances(number, method)}},
        )
    return others, sweep
