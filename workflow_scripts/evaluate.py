"""Score the label maps of every step against the ground truth: mIoU and more.

This is the first stage that reads labels. Each step has its own matching of clusters to classes.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth, require_labels
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import boundaries, confusion_matrix, matching
from workflow_scripts.maskdistill.files import label_maps, provenance, schemas, shards
from workflow_scripts.maskdistill.files.atomic import atomic_path, write_text
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.streaming import map_ahead

Result = TypeVar("Result")
AHEAD = 32  # images that are read before their turn


def main(argv: list[str] | None = None) -> int:
    """Run the rule; see the module."""
    parser = cli.Parser("evaluate", __doc__)
    cli.add_root(parser)
    parser.add_argument("--split", required=True, help="split whose labels are read")
    cli.add_labels(parser)
    parser.add_input("--images", nargs="+", required=True, help="manifest shards of the split")
    cli.add_tolerance(parser)
    parser.add_input(
        "--step",
        words=1,
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "SHARD"),
        help="a step's name and its shards of label maps; repeat for every step, in their order",
    )
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="label maps hold the classes themselves (linear probe): nothing is matched",
    )
    parser.add_argument("--workers", type=int, default=1, help="threads that decode and count")
    parser.add_argument("--output", type=Path, required=True, help="metrics, JSON")
    parser.add_argument(
        "--per-class-csv", type=Path, required=True, help="table of all classes to write"
    )
    parser.add_argument(
        "--per-class-parquet", type=Path, required=True, help="the same table as Parquet"
    )
    options = parser.parse_args(argv)
    settings = options.settings

    truth = GroundTruth(settings["dataset"], options.root, options.split)
    class_names = ("background", *truth.class_names)
    classes = len(truth.class_names)
    clusters = classes if options.supervised else settings["clustering"]["clusters"]
    columns = ["image_id", "file_name", "status"]
    manifest = shards.read_table(options.images, columns).to_pylist()
    require_labels(options.labels, settings["dataset"], options.root, options.split, manifest)
    datasets.check_rejected(manifest, options.max_rejected, f"the split '{options.split}'")
    usable = [row["image_id"] for row in manifest if row["status"] == shards.OK]
    steps = {}
    with ThreadPoolExecutor(options.workers) as pool:
        for name, *paths in options.step:
            counts, counted = confusion(paths, truth, clusters, pool, name)
            shards.assert_same_images(usable, counted, f"{paths[0]} (step {name})")
            if len(counted) != len(usable):
                raise InputError(
                    f"{paths[0]} (step {name}): an image stands there twice; run again"
                )
            if options.supervised:
                matched = matching.Matching(np.arange(clusters + 1), "supervised")
            else:
                matched = matching.match(counts)
            outlines = boundary_iou(paths, truth, matched.mapping, pool, name)
            steps[name] = metrics_of_step(counts, matched, outlines, class_names)
    record = cli.record(
        options,
        "evaluate",
        split=options.split,
        labels=options.labels,
        supervised=options.supervised,
    )
    result = {
        "provenance": record,
        "split": options.split,
        "images": len(usable),
        "clusters": clusters,
        "class_names": list(class_names),
        "steps": steps,
    }
    rows = list(per_class_rows(steps))
    with atomic_path(options.per_class_csv) as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, schemas.schema("per_class").names)
        writer.writeheader()
        writer.writerows(rows)
    provenance.write_beside(options.per_class_csv, record)
    shards.write_table(options.per_class_parquet, "per_class", rows, record)
    write_text(options.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


def confusion(
    paths: Iterable[str], truth: GroundTruth, clusters: int, pool: ThreadPoolExecutor, name: str
) -> tuple[np.ndarray, list[int]]:
    """Count one step's label maps against the ground truth.

    Returns:
        (K + 1) x (C + 1) pixel counts, and the ids of the images in the order of the shards.
    """

    def count(prediction: np.ndarray, target: np.ndarray) -> confusion_matrix.ConfusionMatrix:
        part = confusion_matrix.ConfusionMatrix(len(truth.class_names), clusters)
        part.add(prediction, target)
        return part

    total = confusion_matrix.ConfusionMatrix(len(truth.class_names), clusters)
    counted = []
    for image_id, part in _of_images(count, paths, truth, pool, name):
        total += part
        counted.append(image_id)
    return total.counts, counted


def boundary_iou(
    paths: Iterable[str],
    truth: GroundTruth,
    mapping: np.ndarray,
    pool: ThreadPoolExecutor,
    name: str,
) -> np.ndarray:
    """Boundary IoU of one step's label maps by class, K + 1; see `boundaries`.

    Outlines of classes can be told only once the clusters are matched, so that the label maps are
    read again.
    """
    classes = len(truth.class_names)
    count = partial(boundaries.boundary_counts, mapping=mapping, classes=classes)
    parts = _of_images(count, paths, truth, pool, f"{name}, boundaries")
    nothing = np.zeros((3, classes + 1), dtype=np.int64)
    return boundaries.boundary_iou(sum((part for _, part in parts), start=nothing))


def _of_images(
    function: Callable[[np.ndarray, np.ndarray], Result],
    paths: Iterable[str],
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
            map_ahead(pool, of_image, shards.read_rows(path), ahead=AHEAD),
            description=description,
            unit="image",
            total=shards.count_rows(path),
        )


def metrics_of_step(
    counts: np.ndarray,
    matched: matching.Matching,
    outlines: np.ndarray,
    class_names: tuple[str, ...],
) -> dict:
    """The part of metrics.json that belongs to one step; fractions of 1, null for undefined.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.
        outlines: boundary IoU of the K + 1 classes.
        class_names: background and the K classes.
    """
    scores = confusion_matrix.scores(counts, matched.mapping)
    agreement = confusion_matrix.agreement(counts)
    defined = outlines[~np.isnan(outlines)]
    return {
        "miou": _number(scores.miou),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "boundary_iou": float(defined.mean()) if len(defined) else None,
        **{name: _number(value) for name, value in agreement._asdict().items()},
        "matching": {
            "method": matched.method,
            "clusters": {
                str(cluster): None
                if class_id == confusion_matrix.UNMATCHED
                else class_names[class_id]
                for cluster, class_id in enumerate(matched.mapping)
            },
        },
        "per_class": {
            name: {
                "iou": _number(scores.iou[class_id]),
                "boundary_iou": _number(outlines[class_id]),
                "clusters": np.flatnonzero(matched.mapping == class_id).tolist(),
            }
            for class_id, name in enumerate(class_names)
        },
        "confusion_matrix": counts.tolist(),
    }


def per_class_rows(steps: dict) -> Iterable[dict]:
    """The rows of the per-class tables; see `schemas.schema`."""
    for step, values in steps.items():
        for class_name, entry in values["per_class"].items():
            clusters = " ".join(map(str, entry["clusters"]))
            yield {
                "step": step,
                "matching": values["matching"]["method"],
                "class": class_name,
                "iou": entry["iou"],
                "clusters": clusters,
            }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    cli.run(main)
