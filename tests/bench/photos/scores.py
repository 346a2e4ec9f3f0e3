"""Scores of masks and of their clusters, compared with label maps."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.evaluation.confusion_matrix import Agreement, agreement
from workflow_scripts.maskdistill.files import label_maps, masks, shards
from workflow_scripts.maskdistill.progress import progress


class ImageScores(NamedTuple):
    """Scores of the masks of one image, compared with its label map."""

    # IoU of the masks' union with the union of all classes; None for an image without a class.
    foreground_iou: float | None
    best_iou: dict[int, float]  # for each class in the image, the IoU with its best mask
    share: float  # share of the image's pixels that are inside a mask


def score_image(found: Sequence[np.ndarray], labels: np.ndarray) -> ImageScores:
    """Compare masks with a label map; pixels with the value of ignore are left out of all IoUs.

    Args:
        found: masks of the image, H x W bool each; there may be none.
        labels: H x W uint8 or uint16, 0 background, 1..K classes, and ignore.
    """
    valid = labels != label_maps.ignore_value(labels)
    foreground = valid & (labels > 0)
    union = np.zeros(labels.shape, bool)
    for mask in found:
        union |= mask
    classes = {int(value): labels == value for value in np.unique(labels[foreground])}
    return ImageScores(
        _iou(union & valid, foreground) if classes else None,
        {
            value: max((_iou(mask & valid, inside) for mask in found), default=0.0)
            for value, inside in classes.items()
        },
        float(union.mean()),
    )


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks, the second of which is not empty."""
    return float((one & other).sum() / (one | other).sum())


def majority_class(mask: np.ndarray, labels: np.ndarray) -> int | None:
    """The class 1..K with most pixels inside a mask; None if there is no class inside.

    Background and ignored pixels do not count. If two classes have equally many, the lower wins.

    Args:
        mask: H x W bool.
        labels: H x W uint8 or uint16.
    """
    inside = labels[mask]
    inside = inside[(inside > 0) & (inside != label_maps.ignore_value(labels))]
    return int(np.bincount(inside).argmax()) if len(inside) else None


class MaskScores(NamedTuple):
    """Scores of all masks of a split."""

    values: dict  # JSON values, see `score_masks`
    majority: dict[tuple[int, int], int | None]  # (image_id, mask_id) → `majority_class`


def score_masks(
    images: Iterable[Path], mask_shards: Iterable[Path], truth: GroundTruth, name: str
) -> MaskScores:
    """Score all masks of a split.

    Masks are scored as they were found, also those that later stages do not use because they are
    too small, too large or the whole image.

    Args:
        images: manifests of the split.
        mask_shards: shards of its masks, one per manifest and in the same order.
        truth: ground truth of the split.
        name: name of the masks, for the progress bar.

    Returns:
        `values` has `foreground_iou`, `best_iou` and `share`, each as {"mean", "standard_error",
        "n"} over images (`best_iou`: over classes in images), `images`, `masks`, `used` (share of
        the images with at least one mask that later stages use) and `without_foreground`, the
        number of images without a labelled object, which have no IoU.

    Raises:
        InputError: an image has no label map, or the shards have other images than the manifests.
    """
    found: list[ImageScores] = []
    majority: dict[tuple[int, int], int | None] = {}
    used, count = 0, 0
    for manifest, path in zip(images, mask_shards, strict=True):
        listed = shards.read_usable(manifest)
        by_image = shards.group_by_image(path)
        shards.assert_same_images((row["image_id"] for row in listed), by_image, str(path))
        for row in progress(listed, description=name, unit="image"):
            labels = truth.semantic(row["image_id"], row["file_name"])
            rows = by_image[row["image_id"]]
            drawn = {
                one["mask_id"]: masks.decode_row(one)
                for one in rows
                if one["rle_counts"] is not None and one["area"] > 0
            }
            found.append(score_image(list(drawn.values()), labels))
            usable = [one["mask_id"] for one in rows if one["status"] == shards.OK]
            used += bool(usable)
            count += len(drawn)
            for mask_id in usable:
                majority[row["image_id"], mask_id] = majority_class(drawn[mask_id], labels)
    values = {
        "foreground_iou": mean([one.foreground_iou for one in found]),
        "best_iou": mean([iou for one in found for iou in one.best_iou.values()]),
        "share": mean([one.share for one in found]),
        "images": len(found),
        "masks": count,
        "used": used / len(found) if found else None,
        "without_foreground": sum(one.foreground_iou is None for one in found),
    }
    return MaskScores(values, majority)


def mean(values: Iterable[float | None]) -> dict:
    """Mean, its standard error (None for fewer than two values) and number of defined values."""
    defined = [value for value in values if value is not None]
    count = len(defined)
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "standard_error": statistics.stdev(defined) / math.sqrt(count) if count > 1 else None,
        "n": count,
    }


class ClusterAgreement(NamedTuple):
    """How well clusters of masks agree with the classes under the masks; a mask is one point."""

    agreement: Agreement
    masks: int  # number of masks that cover a labelled object
    without_class: int  # number of masks that cover none, which are left out


def cluster_agreement(
    clusters: Mapping[tuple[int, int], int],
    majority: Mapping[tuple[int, int], int | None],
    *,
    class_count: int,
    cluster_count: int,
) -> ClusterAgreement:
    """NMI (normalised by the mean of the two entropies) and purity of clusters of masks.

    Args:
        clusters: (image_id, mask_id) → cluster 1..C.
        majority: (image_id, mask_id) → class 1..K or None, for the same masks.
        class_count: K.
        cluster_count: C.

    Raises:
        ValueError: `clusters` and `majority` have different masks.
    """
    if clusters.keys() != majority.keys():
        raise ValueError("clusters and classes are of different masks")
    counts = np.zeros((class_count + 1, cluster_count + 1), np.int64)
    for mask, cluster in clusters.items():
        if majority[mask] is not None:
            counts[majority[mask], cluster] += 1
    total = int(counts.sum())
    return ClusterAgreement(agreement(counts), total, len(clusters) - total)


def read_clusters(paths: Iterable[Path]) -> dict[tuple[int, int], int]:
    """Read the cluster of every (image_id, mask_id) from shards of assignments."""
    return {
        (row["image_id"], row["mask_id"]): row["cluster"]
        for path in paths
        for row in shards.read_rows(path, ["image_id", "mask_id", "cluster"])
    }
