"""Score initial masks and candidates against the annotated objects: mask AP, coverage, calibration.

Class-aware numbers take the matching of clusters with classes from the metrics of the same step
(`initial_masks`, `mask_rcnn`): that of the label maps of `val`, also where objects of more images
are evaluated.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from workflow_scripts import cli
from workflow_scripts.maskdistill import coco, datasets, instance_metrics, matching, shards
from workflow_scripts.maskdistill.atomic import write_text
from workflow_scripts.maskdistill.ground_truth import GroundTruth
from workflow_scripts.maskdistill.json_files import read_json
from workflow_scripts.maskdistill.progress import progress


def main(argv: list[str] | None = None) -> int:
    """Run the rule; see the module."""
    arguments = cli.parser(__doc__)
    cli.add_root(arguments)
    arguments.add_argument("--split", required=True, help="split whose labels are read")
    arguments.add_argument(
        "--images", type=Path, nargs="+", required=True, help="manifest shards of the split"
    )
    cli.add_tolerance(arguments)
    arguments.add_argument("--masks", type=Path, nargs="+", required=True, help="initial masks")
    arguments.add_argument(
        "--assignments", type=Path, nargs="+", required=True, help="clusters of these masks"
    )
    arguments.add_argument(
        "--candidates", type=Path, nargs="*", default=[], help="candidates of Mask R-CNN, if any"
    )
    arguments.add_argument(
        "--metrics", type=Path, required=True, help="output of evaluate, for its matching"
    )
    arguments.add_argument("--workers", type=int, default=1, help="threads that decode labels")
    arguments.add_argument("--output", type=Path, required=True, help="instance metrics, JSON")
    options = arguments.parse_args(argv)
    settings = options.settings

    truth = GroundTruth(settings["dataset"], options.root, options.split)
    columns = ["image_id", "file_name", "status"]
    manifest = shards.read_table(options.images, columns).to_pylist()
    datasets.check_rejected(manifest, options.max_rejected, f"the split '{options.split}'")
    images = [row for row in manifest if row["status"] == shards.OK]
    ids = [row["image_id"] for row in images]
    objects = annotated_objects(truth, images, options.workers)
    metrics = read_json(options.metrics, remedy="run evaluate again")

    classes = settings["curation"]["classes"]
    found = {"initial_masks": list(mask_results(options.masks, options.assignments, classes))}
    if options.candidates:
        rows = itertools.chain.from_iterable(map(shards.read_rows, options.candidates))
        found["mask_rcnn"] = list(coco.results(rows))
    steps = {}
    for step, detections in found.items():
        steps[step] = metrics_of_step(
            ids, objects, detections, matching.stored_mapping(metrics, step), truth.class_names
        )
        steps[step]["matching"] = metrics["steps"][step]["matching"]["method"]
        if step == "mask_rcnn":  # the others' score is no confidence
            scores = np.array([entry["score"] for entry in detections])
            overlaps = instance_metrics.best_overlaps(objects, detections).of_detections
            steps[step]["calibration"] = instance_metrics.calibration(scores, overlaps)
    steps["initial_masks"]["proposals_per_mask"] = proposals_per_mask(options.masks)
    result = {
        "provenance": shards.provenance("evaluate_instances", settings),
        "split": options.split,
        "images": len(ids),
        "objects": sum(not entry["iscrowd"] for entry in objects),
        "class_names": list(truth.class_names),
        "steps": _without_nan(steps),
    }
    write_text(options.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


def annotated_objects(
    truth: GroundTruth, images: Sequence[Mapping], workers: int = 1
) -> list[dict]:
    """The annotated objects of all images, crowds included, as COCO annotations."""

    def of_image(row: Mapping) -> list[dict]:
        instances = truth.instances(row["image_id"], row["file_name"])
        return instance_metrics.objects_of_image(row["image_id"], instances)

    with ThreadPoolExecutor(workers) as pool:
        tasks = pool.map(of_image, images)
        found = progress(tasks, description="objects", unit="image", total=len(images))
        return list(itertools.chain.from_iterable(found))


def mask_results(
    masks: Iterable[Path], assignments: Iterable[Path], classes: Sequence[int] | None = None
) -> Iterator[dict]:
    """Initial masks with their clusters as entries of a COCO results list.

    They have no confidence. Their score says which one of its image was found first, nearest to
    [CLS]: 1, 1/2, 1/3, …; with one mask an image it is 1 for all. Masks of clusters that were
    dropped are left out, as in the label maps.

    Args:
        classes: pseudo-class of cluster 1, 2, …, see `shards.read_classes`.
    """
    class_of = {}
    for path in assignments:
        class_of |= shards.read_classes(path, classes)
    rows = itertools.chain.from_iterable(map(shards.read_rows, masks))
    return coco.results(
        {
            **row,
            "candidate_id": row["mask_id"],
            "cluster": class_id,
            "score": 1 / (1 + row["mask_id"]),
        }
        for row in rows
        if row["status"] == shards.OK and (class_id := class_of[row["image_id"], row["mask_id"]])
    )


def proposals_per_mask(masks: Iterable[Path]) -> float:
    """Mean number of patches that voted for a mask (P'); nan without any mask."""
    rows = itertools.chain.from_iterable(
        shards.read_rows(path, ["proposals", "status"]) for path in masks
    )
    counts = [row["proposals"] for row in rows if row["status"] == shards.OK]
    return _statistic(np.mean, np.array(counts, dtype=float))


def metrics_of_step(
    ids: Sequence[int],
    objects: Sequence[Mapping],
    detections: Sequence[Mapping],
    mapping: np.ndarray,
    class_names: Sequence[str],
) -> dict:
    """AP in the four settings of the paper's Table 3, coverage, and overlap with the best object.

    Args:
        ids: of all images.
        mapping: cluster → class, see `matching.Matching`.

    Returns:
        JSON values but for nan; fractions of 1.
    """
    overlaps = instance_metrics.best_overlaps(objects, detections)
    result = {
        "masks": len(detections),
        "masks_per_image": len(detections) / max(len(ids), 1),
        "coverage": _statistic(np.mean, overlaps.of_objects > instance_metrics.HIT),
        "best_object_iou": {
            "mean": _statistic(np.mean, overlaps.of_detections),
            "median": _statistic(np.median, overlaps.of_detections),
        },
    }
    pairs = {
        "multi": (objects, detections),
        "single": instance_metrics.single_object(objects, detections),
    }
    for setting, (present, found) in pairs.items():
        agnostic = instance_metrics.average_precision(ids, present, found, classes=None)
        aware = instance_metrics.average_precision(
            ids,
            present,
            instance_metrics.as_classes(found, mapping),
            classes=len(class_names),
        )
        result[f"class_agnostic_{setting}"] = agnostic._asdict()
        result[f"class_aware_{setting}"] = aware._asdict()
    return result


def _statistic(function, values: np.ndarray) -> float:
    return float(function(values)) if len(values) else np.nan


def _without_nan(value):
    """The same tree with null for what is undefined."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


if __name__ == "__main__":
    cli.run(main)
