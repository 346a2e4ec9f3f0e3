"""Score initial masks and candidates against the annotated objects: mask AP, coverage, calibration.

Class-aware numbers take the matching of clusters with classes from the metrics of the same step
(`initial_masks`, `mask_rcnn`): that of the label maps of `val`, also where objects of more images
are evaluated.
"""

import itertools
import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path

import numpy as np

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth, require_labels
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import matching, object_scores
from workflow_scripts.maskdistill.files import cluster_files, coco_json, shards
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.progress import progress, progress_bar
from workflow_scripts.maskdistill.streaming import map_ahead

PART = 16  # images that are matched at once


def main(argv: list[str] | None = None) -> int:
    """Run the rule; see the module."""
    parser = cli.Parser("evaluate_instances", __doc__)
    cli.add_root(parser)
    parser.add_argument("--split", required=True, help="split whose labels are read")
    cli.add_labels(parser)
    parser.add_input("--images", nargs="+", required=True, help="manifest shards of the split")
    cli.add_tolerance(parser)
    parser.add_input("--masks", nargs="+", required=True, help="initial masks")
    parser.add_input("--assignments", nargs="+", required=True, help="clusters of these masks")
    parser.add_input("--candidates", nargs="*", default=[], help="candidates of Mask R-CNN, if any")
    parser.add_input("--metrics", required=True, help="output of evaluate, for its matching")
    parser.add_argument("--workers", type=int, default=1, help="threads that decode labels")
    parser.add_argument("--output", type=Path, required=True, help="instance metrics, JSON")
    options = parser.parse_args(argv)
    settings = options.settings

    truth = GroundTruth(settings["dataset"], options.root, options.split)
    columns = ["image_id", "file_name", "status"]
    manifest = shards.read_table(options.images, columns).to_pylist()
    require_labels(
        options.labels, settings["dataset"], options.root, options.split, manifest, objects=True
    )
    datasets.check_rejected(manifest, options.max_rejected, f"the split '{options.split}'")
    images = [row for row in manifest if row["status"] == shards.OK]
    objects = annotated_objects(truth, images, options.workers)
    metrics = read_json(options.metrics, remedy="run evaluate again")

    classes = settings["curation"]["classes"]
    found = {"initial_masks": masks_by_image(options.masks, options.assignments, classes)}
    if options.candidates:
        found["mask_rcnn"] = candidates_by_image(options.candidates)
    steps = {}
    for step, detections in found.items():
        mapping = matching.stored_mapping(metrics, step)
        measured = object_scores.InstanceMetrics(mapping, len(truth.class_names))
        with progress_bar(total=len(images), description=step, unit="image") as bar:
            for ids, present, entries in in_parts(objects, detections):
                measured.add(ids, present, entries)
                bar.update(len(ids))
        steps[step] = measured.result()
        steps[step]["matching"] = metrics["steps"][step]["matching"]["method"]
        if step == "mask_rcnn":  # the others' score is no confidence
            steps[step]["calibration"] = measured.calibration()
    steps["initial_masks"]["proposals_per_mask"] = proposals_per_mask(options.masks)
    result = {
        "provenance": cli.record(
            options, "evaluate_instances", split=options.split, labels=options.labels
        ),
        "split": options.split,
        "images": len(images),
        "objects": sum(count for count, _ in objects.values()),
        # Whose label maps the matching of clusters with classes was made on.
        "matched_on": {"split": metrics["split"], "images": metrics["images"]},
        "class_names": list(truth.class_names),
        "steps": _without_nan(steps),
    }
    write_text(options.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


def annotated_objects(
    truth: GroundTruth, images: Sequence[Mapping], workers: int = 1
) -> dict[int, tuple[int, bytes]]:
    """The annotated objects of all images: image_id → number without crowds, COCO annotations.

    Crowds are among the annotations, which are pickled: a sixth of the memory of dictionaries.
    """

    def of_image(row: Mapping) -> tuple[int, tuple[int, bytes]]:
        instances = truth.instances(row["image_id"], row["file_name"])
        objects = object_scores.objects_of_image(row["image_id"], instances)
        count = sum(not entry["iscrowd"] for entry in objects)
        return row["image_id"], (count, pickle.dumps(objects))

    with ThreadPoolExecutor(workers) as pool:
        tasks = map_ahead(pool, of_image, images, ahead=2 * workers)
        return dict(progress(tasks, description="objects", unit="image", total=len(images)))


def in_parts(
    objects: Mapping[int, tuple[int, bytes]], found: Iterable[tuple[int, list[dict]]]
) -> Iterator[tuple[list[int], list[dict], list[dict]]]:
    """Ids, objects and detections of some images at a time, in the order of the detections.

    Images that nothing is said of come last.

    Args:
        objects: of `annotated_objects`.
        found: image_id and detections of every image.

    Raises:
        InputError: an image comes twice, or is not among those with objects.
    """
    left = set(objects)

    def every_image() -> Iterator[tuple[int, list[dict]]]:
        for image_id, detections in found:
            if image_id not in left:
                raise InputError(
                    f"image {image_id}: its masks lie apart in their files, or it is not among the "
                    "manifest's; remove its shard and run again"
                )
            left.remove(image_id)
            yield image_id, detections
        yield from ((image_id, []) for image_id in sorted(left))

    images = every_image()
    while part := list(itertools.islice(images, PART)):
        ids = [image_id for image_id, _ in part]
        present = itertools.chain.from_iterable(pickle.loads(objects[i][1]) for i in ids)
        detections = itertools.chain.from_iterable(entries for _, entries in part)
        yield ids, list(present), list(detections)


def masks_by_image(
    masks: Iterable[Path], assignments: Iterable[Path], classes: Sequence[int] | None = None
) -> Iterator[tuple[int, list[dict]]]:
    """Initial masks with their clusters as entries of a COCO results list, by image_id.

    They have no confidence. Their score says which one of its image was found first, nearest to
    [CLS]: 1, 1/2, 1/3, …; with one mask an image it is 1 for all. Masks of clusters that were
    dropped are left out, as in the label maps.

    Args:
        classes: pseudo-class of cluster 1, 2, …, see `cluster_files.read_classes`.
    """
    class_of = {}
    for path in assignments:
        class_of |= cluster_files.read_classes(path, classes)
    for image_id, rows in _grouped(masks):
        kept = (
            {
                **row,
                "candidate_id": row["mask_id"],
                "cluster": class_id,
                "score": 1 / (1 + row["mask_id"]),
            }
            for row in rows
            if row["status"] == shards.OK and (class_id := class_of[image_id, row["mask_id"]])
        )
        yield image_id, list(coco_json.results(kept))


def candidates_by_image(candidates: Iterable[Path]) -> Iterator[tuple[int, list[dict]]]:
    """Candidates as entries of a COCO results list, by image_id."""
    return ((image_id, list(coco_json.results(rows))) for image_id, rows in _grouped(candidates))


def _grouped(paths: Iterable[Path]) -> Iterator[tuple[int, Iterator[dict]]]:
    """Rows of shards by image, whose rows follow one another."""
    rows = itertools.chain.from_iterable(map(shards.read_rows, paths))
    return itertools.groupby(rows, key=itemgetter("image_id"))


def proposals_per_mask(masks: Iterable[Path]) -> float:
    """Mean number of patches that voted for a mask (P'); nan without any mask."""
    rows = itertools.chain.from_iterable(
        shards.read_rows(path, ["proposals", "status"]) for path in masks
    )
    counts = [row["proposals"] for row in rows if row["status"] == shards.OK]
    return float(np.mean(np.array(counts, dtype=float))) if counts else np.nan


def _without_nan(value):
    """The same tree with null for what is undefined."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


if __name__ == "__main__":
    cli.run(main)
