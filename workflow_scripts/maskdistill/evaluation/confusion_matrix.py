"""A confusion matrix that is filled image by image, and the metrics computed from it."""

from typing import NamedTuple

import numpy as np

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps

UNMATCHED = -1  # in a mapping: a cluster without a class


class ConfusionMatrix:
    """Numbers of pixels by ground-truth class and predicted cluster.

    Attributes:
        counts: int64 array of (K + 1) x (C + 1); rows are ground truth (0 background, 1..K
            classes), columns are predictions (0 background, 1..C clusters). Matrices of equal
            shape can be added, in any order.
    """

    def __init__(self, classes: int, clusters: int) -> None:
        """Start at zero; `classes` (K) and `clusters` (C) do not include background."""
        self.counts = np.zeros((classes + 1, clusters + 1), dtype=np.int64)

    def add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count the pixels of one image.

        Args:
            prediction: H x W uint8 or uint16, clusters 0..C. Ignored pixels (255 or 65535) count as
                background, so that a prediction cannot exclude pixels from the count.
            target: H x W uint8 or uint16, classes 0..K; ignored pixels are not counted.

        Raises:
            InputError: the sizes differ, or a label is out of range.
        """
        if prediction.shape != target.shape:
            raise InputError(
                f"the label map has {prediction.shape} px, but the ground truth {target.shape} px; "
                "both must have the size of the image"
            )
        rows, columns = self.counts.shape
        truth, truth_ignore = _compact(target, rows)
        found, found_ignore = _compact(prediction, columns)
        # Counts all pairs of labels in one pass over the pixels.
        width = found_ignore + 1
        codes = truth.astype(np.intp) * width + found
        bins = (truth_ignore + 1) * width
        table = np.bincount(codes.ravel(), minlength=bins).reshape(-1, width)
        table[truth_ignore] = 0
        table[:, 0] += table[:, found_ignore]
        table[:, found_ignore] = 0
        for axis, size, what in ((1, rows, "ground truth"), (0, columns, "label map")):
            if (present := table.any(axis=axis).nonzero()[0]).size and present[-1] >= size:
                raise InputError(
                    f"{what} has label {present[-1]}, but at most {size - 1} is allowed; "
                    "check the class names or clustering.clusters"
                )
        table = table[:rows, :columns]
        self.counts[: table.shape[0], : table.shape[1]] += table

    def __iadd__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Add the counts of other images."""
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"{self.counts.shape} and {other.counts.shape} do not add up")
        self.counts += other.counts
        return self


def _compact(labels: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """A label map, and the value of its ignored pixels.

    This value is larger than all labels and at least `count`. 8-bit maps are returned unchanged. In
    16-bit maps the value is lowered, so that tables of all pairs of labels stay small.
    """
    ignore = label_maps.ignore_value(labels)
    if labels.dtype == np.uint8:
        return labels, ignore
    known = labels != ignore
    top = max(count, int(labels[known].max(initial=0)) + 1)
    return np.where(known, labels, top), top


def iou_table(counts: np.ndarray) -> np.ndarray:
    """IoU of every class with every cluster.

    Args:
        counts: (K + 1) x (C + 1) pixel counts, background included.

    Returns:
        float64 array of (K + 1) x (C + 1); 0 if neither the class nor the cluster has pixels.
    """
    union = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True) - counts
    return counts / np.maximum(union, 1)


def matched_counts(counts: np.ndarray, mapping: np.ndarray) -> np.ndarray:
    """Add up the columns of the clusters that are matched with the same class.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.
        mapping: C + 1 integers, cluster → class 0..K or `UNMATCHED`.

    Returns:
        int64 array of (K + 1) x (K + 2); the last column holds pixels of unmatched clusters.
    """
    classes = counts.shape[0]
    result = np.zeros((classes, classes + 1), dtype=np.int64)
    for cluster, class_id in enumerate(mapping):
        result[:, classes if class_id == UNMATCHED else class_id] += counts[:, cluster]
    return result


class Agreement(NamedTuple):
    """Agreement of clusters and classes as partitions of the pixels, without matching."""

    nmi: float  # mutual information, divided by the mean of the two entropies, 0..1
    ari: float  # adjusted Rand index: about 0 by chance, at most 1
    purity: float  # share of pixels whose class is the most frequent one of their cluster


def agreement(counts: np.ndarray) -> Agreement:
    """Normalised mutual information, adjusted Rand index and purity, background included.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.

    Returns:
        The three scores; nan if nothing was counted.
    """
    total = int(counts.sum())
    if not total:
        return Agreement(np.nan, np.nan, np.nan)
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    entropies = _entropy(rows / total), _entropy(columns / total)
    # The mutual information; rounding could make it slightly negative.
    shared = max(0.0, sum(entropies) - _entropy(counts.ravel() / total))
    nmi = 2 * shared / sum(entropies) if sum(entropies) else 1.0
    # The squared pixel counts of a large split overflow 64-bit integers, but not Python's integers.
    together, by_class, by_cluster = (
        sum(n * (n - 1) // 2 for n in part.ravel().tolist()) for part in (counts, rows, columns)
    )
    pairs = total * (total - 1) // 2
    expected = by_class * by_cluster / pairs if pairs else 0.0
    largest = (by_class + by_cluster) / 2
    # `largest` equals `expected` if both partitions have only one block, or only blocks of one
    # pixel. Such partitions agree fully.
    ari = (together - expected) / (largest - expected) if largest != expected else 1.0
    return Agreement(float(nmi), float(ari), float(counts.max(axis=0).sum() / total))


def _entropy(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


class Scores(NamedTuple):
    """Scores of label maps whose clusters have been matched with classes, from 0 to 1."""

    iou: np.ndarray  # K + 1, nan where a class is absent from ground truth and prediction
    miou: float
    pixel_accuracy: float


def scores(counts: np.ndarray, mapping: np.ndarray) -> Scores:
    """IoU per class, its mean, and the share of correct pixels.

    A class without a matched cluster has IoU 0, which is included in the mean. A class that occurs
    neither in the ground truth nor in the prediction has IoU nan, which is left out of the mean.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.
        mapping: C + 1 integers, cluster → class or `UNMATCHED`.
    """
    matched = matched_counts(counts, mapping)
    square = matched[:, :-1]
    right = np.diagonal(square)
    union = matched.sum(axis=1) + square.sum(axis=0) - right
    iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    pixels = matched.sum()
    return Scores(
        iou=iou,
        miou=float(np.nanmean(iou)) if pixels else float("nan"),
        pixel_accuracy=float(right.sum() / pixels) if pixels else float("nan"),
    )
