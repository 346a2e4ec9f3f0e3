"""Score the label maps of every step against the ground truth: mIoU and pixel accuracy.

This is the first stage that reads labels. Each step has its own matching of clusters to classes.
"""

import csv
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workflow_scripts import cli
from workflow_scripts.maskdistill import label_maps, matching, metrics, shards
from workflow_scripts.maskdistill.atomic import atomic_path, write_text
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.ground_truth import GroundTruth
from workflow_scripts.maskdistill.progress import progress

PER_CLASS = pa.schema(
    [
        ("step", pa.string()),
        ("class", pa.string()),
        ("iou", pa.float64()),  # 0..1; null where the class is nowhere
        ("clusters", pa.string()),  # separated by spaces
    ]
)


def main(argv: list[str] | None = None) -> int:
    """Run the rule; see the module."""
    arguments = cli.parser(__doc__)
    cli.add_root(arguments)
    arguments.add_argument("--split", required=True, help="split whose labels are read")
    arguments.add_argument(
        "--images", type=Path, nargs="+", required=True, help="manifest shards of the split"
    )
    arguments.add_argument(
        "--step",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "SHARD"),
        help="a step's name and its shards of label maps; repeat for every step, in their order",
    )
    arguments.add_argument("--workers", type=int, default=1, help="threads that decode and count")
    arguments.add_argument("--output", type=Path, required=True, help="metrics, JSON")
    arguments.add_argument(
        "--per-class-csv", type=Path, required=True, help="table of all classes to write"
    )
    arguments.add_argument(
        "--per-class-parquet", type=Path, required=True, help="the same table as Parquet"
    )
    options = arguments.parse_args(argv)
    settings = options.settings
    clusters = settings["clustering"]["clusters"]

    truth = GroundTruth(settings["dataset"], options.root, options.split)
    manifest = shards.read_table(options.images, ["image_id", "status"]).to_pylist()
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
            steps[name] = metrics_of_step(counts, ("background", *truth.class_names))
    result = {
        "provenance": shards.provenance("evaluate", settings),
        "split": options.split,
        "images": len(usable),
        "clusters": clusters,
        "class_names": ["background", *truth.class_names],
        "steps": steps,
    }
    rows = list(per_class_rows(steps))
    with atomic_path(options.per_class_csv) as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, PER_CLASS.names)
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(options.per_class_parquet) as path:
        pq.write_table(pa.Table.from_pylist(rows, PER_CLASS), path, compression="zstd")
    write_text(options.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


def confusion(
    paths: Iterable[str], truth: GroundTruth, clusters: int, pool: ThreadPoolExecutor, name: str
) -> tuple[np.ndarray, list[int]]:
    """Count one step's label maps against the ground truth.

    Returns:
        (K + 1) x (C + 1) pixel counts, and the ids of the images in the order of the shards.
    """
    total = metrics.ConfusionMatrix(len(truth.class_names), clusters)
    counted = []
    for path in paths:
        rows = list(shards.read_rows(path))
        tasks = pool.map(partial(_count_image, truth=truth, clusters=clusters), rows)
        for part in progress(tasks, description=name, unit="image", total=len(rows)):
            total += part
        counted += [row["image_id"] for row in rows]
    return total.counts, counted


def _count_image(row: dict, *, truth: GroundTruth, clusters: int) -> metrics.ConfusionMatrix:
    part = metrics.ConfusionMatrix(len(truth.class_names), clusters)
    prediction = label_maps.decode_png(row["image"]["bytes"])
    try:
        part.add(prediction, truth.semantic(row["image_id"], row["file_name"]))
    except InputError as error:
        raise InputError(f"{row['file_name']}: {error}") from error
    return part


def metrics_of_step(counts: np.ndarray, class_names: tuple[str, ...]) -> dict:
    """The part of metrics.json that belongs to one step; fractions of 1, null for undefined.

    Args:
        counts: (K + 1) x (C + 1) pixel counts.
        class_names: background and the K classes.
    """
    matched = matching.match(counts)
    scores = metrics.scores(counts, matched.mapping)
    return {
        "miou": _number(scores.miou),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "matching": {
            "method": matched.method,
            "clusters": {
                str(cluster): None if class_id == metrics.UNMATCHED else class_names[class_id]
                for cluster, class_id in enumerate(matched.mapping)
            },
        },
        "per_class": {
            name: {
                "iou": _number(scores.iou[class_id]),
                "clusters": np.flatnonzero(matched.mapping == class_id).tolist(),
            }
            for class_id, name in enumerate(class_names)
        },
        "confusion_matrix": counts.tolist(),
    }


def per_class_rows(steps: dict) -> Iterable[dict]:
    """The rows of the per-class tables; see `PER_CLASS`."""
    for step, values in steps.items():
        for class_name, entry in values["per_class"].items():
            clusters = " ".join(map(str, entry["clusters"]))
            yield {"step": step, "class": class_name, "iou": entry["iou"], "clusters": clusters}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    cli.run(main)
