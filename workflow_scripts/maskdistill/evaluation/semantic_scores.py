"""Label maps compared with the ground truth: counts over all images, and scores of a step."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import boundaries, matching
from workflow_scripts.maskdistill.evaluation.confusion_matrix import UNMATCHED, ConfusionMatrix
from workflow_scripts.maskdistill.evaluation.metrics import (
    CLASS_METRICS,
    STEP_METRICS,
    PixelCounts,
)
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.streaming import PIXELS_AHEAD, map_ahead

Result = TypeVar("Result")
QUEUED_IMAGES = 32  # images that are decoded before they are needed


def score_step(
    name: str,
    paths: Sequence[str | Path],
    truth: GroundTruth,
    image_ids: Sequence[int],
    pool: ThreadPoolExecutor,
    *,
    clusters: int | None,
) -> dict:
    """Scores of one step, for metrics.json.

    The label maps are read twice, because the outlines of classes are known only after the
    clusters have been matched with classes.

    Args:
        name: name of the step, i.e. of the stage whose label maps are scored; see `step_titles`.
        paths: shards of the step's label maps.
        image_ids: ids of the images that must have label maps.
        clusters: C; None if the label maps hold classes, which need no matching.

    Raises:
        InputError: the label maps are not those of exactly these images, or a label map does not
            fit its image.
    """
    classes = len(truth.class_names)
    confusion, counted = count_confusion(paths, truth, clusters or classes, pool, name)
    shards.assert_same_images(image_ids, counted, f"{paths[0]} (step {name})")
    if len(counted) != len(image_ids):
        raise InputError(
            f"{paths[0]} (step {name}): an image occurs twice in these shards; remove them and run "
            "the workflow again"
        )
    if clusters is None:
        matched = matching.Matching(np.arange(classes + 1), "supervised")
    else:
        matched = matching.match(confusion)
    outlines = count_boundaries(paths, truth, matched.mapping, pool, name)
    counts = PixelCounts(confusion, matched.mapping, outlines)
    return scores_of_step(counts, matched.method, ("background", *truth.class_names))


def count_confusion(
    paths: Iterable[str | Path],
    truth: GroundTruth,
    clusters: int,
    pool: ThreadPoolExecutor,
    description: str,
) -> tuple[np.ndarray, list[int]]:
    """Count the pixels of one step's label maps by class and cluster.

    Returns:
        (K + 1) x (C + 1) pixel counts, and the ids of the images in the order of the shards.
    """

    def count(prediction: np.ndarray, target: np.ndarray) -> ConfusionMatrix:
        part = ConfusionMatrix(len(truth.class_names), clusters)
        part.add(prediction, target)
        return part

    total = ConfusionMatrix(len(truth.class_names), clusters)
    counted = []
    for image_id, part in _for_every_image(count, paths, truth, pool, description):
        total += part
        counted.append(image_id)
    return total.counts, counted


def count_boundaries(
    paths: Iterable[str | Path],
    truth: GroundTruth,
    mapping: np.ndarray,
    pool: ThreadPoolExecutor,
    description: str,
) -> np.ndarray:
    """Sum of `boundaries.boundary_counts` over one step's label maps, 3 x (K + 1)."""
    classes = len(truth.class_names)
    count = partial(boundaries.boundary_counts, mapping=mapping, classes=classes)
    parts = _for_every_image(count, paths, truth, pool, f"{description}, boundaries")
    return sum((part for _, part in parts), start=np.zeros((3, classes + 1), dtype=np.int64))


def _for_every_image(
    function: Callable[[np.ndarray, np.ndarray], Result],
    paths: Iterable[str | Path],
    truth: GroundTruth,
    pool: ThreadPoolExecutor,
    description: str,
) -> Iterator[tuple[int, Result]]:
    """Yield (image_id, function(prediction, target)) for the images of several shards."""

    def of_image(row: dict) -> tuple[int, Result]:
        prediction = label_maps.decode_png(row["image"]["bytes"])
        try:
            target = truth.semantic(row["image_id"], row["file_name"])
            return row["image_id"], function(prediction, target)
        except InputError as error:
            raise InputError(f"{row['file_name']}: {error}") from error

    for path in paths:
        yield from progress(
            map_ahead(
                pool,
                of_image,
                shards.read_rows(path),
                ahead=QUEUED_IMAGES,
                weight=lambda row: math.prod(label_maps.png_size(row["image"]["bytes"])),
                most_weight=PIXELS_AHEAD // 2,
            ),
            description=description,
            unit="image",
            total=shards.count_rows(path),
        )


def scores_of_step(counts: PixelCounts, method: str, class_names: Sequence[str]) -> dict:
    """All metrics of one step, its matching and its confusion matrix; null where undefined.

    Args:
        method: matching method, see `matching.Matching`.
        class_names: names of background and of the K classes.
    """
    by_class = {name: compute(counts) for name, compute in CLASS_METRICS.items()}
    return {
        **{name: _number(metric.compute(counts)) for name, metric in STEP_METRICS.items()},
        "matching": {
            "method": method,
            "clusters": {
                str(cluster): None if class_id == UNMATCHED else class_names[class_id]
                for cluster, class_id in enumerate(counts.mapping)
            },
        },
        "per_class": {
            class_name: {
                **{name: _number(values[class_id]) for name, values in by_class.items()},
                "clusters": np.flatnonzero(counts.mapping == class_id).tolist(),
            }
            for class_id, class_name in enumerate(class_names)
        },
        "confusion_matrix": counts.confusion.tolist(),
    }


def class_rows(steps: Mapping[str, Mapping]) -> list[dict]:
    """Rows of the tables of scores per class, with the columns of `per_class` in files/schemas.py.

    Args:
        steps: step → result of `score_step`.
    """
    columns = shards.schema("per_class").names
    rows = []
    for step, scores in steps.items():
        for class_name, entry in scores["per_class"].items():
            known = {
                **entry,
                "step": step,
                "matching": scores["matching"]["method"],
                "class": class_name,
                "clusters": " ".join(map(str, entry["clusters"])),
            }
            rows.append({column: known[column] for column in columns})
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
