"""Matching of clusters with classes."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED, iou_table


class Matching(NamedTuple):
    """The class that each cluster is matched with, and the method."""

    mapping: np.ndarray  # C + 1 int64: cluster → class 0..K or UNMATCHED; background → background
    method: Literal["hungarian", "majority", "supervised"]  # supervised: label maps hold classes


def match(counts: np.ndarray) -> Matching:
    """Match clusters with classes: one to one if possible, otherwise by majority.

    Args:
        counts: (K + 1) x (C + 1) pixel counts of a whole split; rows are ground truth.

    Returns:
        Hungarian matching for C <= K, majority matching for C > K. Scores of the two are not
        comparable, as majority matching uses more of the labels.
    """
    classes, clusters = counts.shape
    if clusters <= classes:
        return Matching(hungarian(counts), "hungarian")
    return Matching(majority(counts), "majority")


def hungarian(counts: np.ndarray) -> np.ndarray:
    """One-to-one matching that maximises the sum of IoU (Section 4.1 of the paper).

    Background is matched with background. A cluster that has no pixel in common with its class
    is `UNMATCHED`. This does not change the IoU of any class in the ground truth. It keeps a class
    that the ground truth lacks from being matched with a leftover cluster, which would make the
    class count with an IoU of 0.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.

    Returns:
        Mapping cluster → class, C + 1 int64.
    """
    iou = iou_table(counts)[1:, 1:]
    mapping = np.full(counts.shape[1], UNMATCHED, dtype=np.int64)
    mapping[0] = 0
    for class_id, cluster in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        if iou[class_id, cluster] > 0:
            mapping[cluster + 1] = class_id + 1
    return mapping


def majority(counts: np.ndarray) -> np.ndarray:
    """Many-to-one matching of each cluster with the most frequent class (or background) in it.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.

    Returns:
        Mapping cluster → class, C + 1 int64. A cluster without pixels is `UNMATCHED`. If several
        classes are equally frequent, the first one is taken.
    """
    mapping = np.where(counts.sum(axis=0) > 0, counts.argmax(axis=0), UNMATCHED).astype(np.int64)
    mapping[0] = 0
    return mapping


def stored_mapping(metrics: Mapping, step: str) -> np.ndarray:
    """Read the mapping of a step from the content of metrics.json; see `Matching.mapping`.

    Raises:
        InputError: the metrics lack the step.
    """
    if step not in metrics["steps"]:
        raise InputError(f"the metrics lack the step '{step}'; run evaluate again")
    index = {name: i for i, name in enumerate(metrics["class_names"])}
    matched = metrics["steps"][step]["matching"]["clusters"]
    return np.array(
        [
            UNMATCHED if (name := matched[str(cluster)]) is None else index[name]
            for cluster in range(metrics["clusters"] + 1)
        ]
    )
