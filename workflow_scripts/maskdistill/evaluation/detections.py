"""Annotated objects and detections of a split, read image by image as entries of COCO files.

See `object_scores` for the fields of the entries.
"""

import itertools
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import object_scores
from workflow_scripts.maskdistill.files import cluster_files, coco_json, shards
from workflow_scripts.maskdistill.progress import progress
from workflow_scripts.maskdistill.streaming import PIXELS_AHEAD, map_ahead

BATCH = 16  # number of images whose detections are matched with objects at once


def annotated_objects(
    truth: GroundTruth, images: Sequence[Mapping], workers: int = 1
) -> dict[int, tuple[int, bytes]]:
    """image_id → number of objects without crowds, and pickled COCO annotations with crowds.

    Pickled annotations need a sixth of the memory of dictionaries.
    """

    def of_image(row: Mapping) -> tuple[int, tuple[int, bytes]]:
        instances = truth.instances(row["image_id"], row["file_name"])
        objects = object_scores.objects_of_image(row["image_id"], instances)
        count = sum(not entry["iscrowd"] for entry in objects)
        return row["image_id"], (count, pickle.dumps(objects))

    with ThreadPoolExecutor(workers) as pool:
        tasks = map_ahead(
            pool,
            of_image,
            images,
            ahead=2 * workers,
            weight=lambda row: row["height"] * row["width"],
            most_weight=PIXELS_AHEAD,
        )
        return dict(progress(tasks, description="objects", unit="image", total=len(images)))


def batches_of_images(
    objects: Mapping[int, tuple[int, bytes]], found: Iterable[tuple[int, list[dict]]]
) -> Iterator[tuple[list[int], list[dict], list[dict]]]:
    """Image ids, objects and detections, up to `BATCH` images at a time.

    Images are in the order of the detections, followed by those without detections.

    Args:
        objects: result of `annotated_objects`.
        found: image_id and detections, image by image.

    Raises:
        InputError: an image occurs twice, or is missing in `objects`.
    """
    left = set(objects)

    def every_image() -> Iterator[tuple[int, list[dict]]]:
        for image_id, detections in found:
            if image_id not in left:
                raise InputError(
                    f"image {image_id}: its masks are not in consecutive rows, or the manifest "
                    "lacks it; remove its shard and run again"
                )
            left.remove(image_id)
            yield image_id, detections
        yield from ((image_id, []) for image_id in sorted(left))

    images = every_image()
    while batch := list(itertools.islice(images, BATCH)):
        ids = [image_id for image_id, _ in batch]
        present = itertools.chain.from_iterable(pickle.loads(objects[i][1]) for i in ids)
        detections = itertools.chain.from_iterable(entries for _, entries in batch)
        yield ids, list(present), list(detections)


def masks_by_image(
    masks: Iterable[Path], assignments: Iterable[Path], classes: Sequence[int] | None = None
) -> Iterator[tuple[int, list[dict]]]:
    """image_id and initial masks of each image, as entries of a COCO results list.

    The category of an entry is the cluster of its mask. Initial masks have no confidence, so their
    scores are 1, 1/2, 1/3, … in the order in which the masks of an image were found, nearest to
    [CLS] first. Masks of clusters that config/names names `background` are left out, as in the
    label maps.

    Args:
        classes: pseudo-classes of clusters 1, 2, …, see `cluster_files.read_classes`.
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
    """image_id and candidates of each image, as entries of a COCO results list."""
    return ((image_id, list(coco_json.results(rows))) for image_id, rows in _grouped(candidates))


def _grouped(paths: Iterable[Path]) -> Iterator[tuple[int, Iterator[dict]]]:
    """Rows of shards, grouped by image; the rows of an image are consecutive."""
    rows = itertools.chain.from_iterable(map(shards.read_rows, paths))
    return itertools.groupby(rows, key=itemgetter("image_id"))


def proposals_per_mask(masks: Iterable[Path]) -> float | None:
    """Mean number of patches that voted for a mask (P').

    Returns:
        None if there is no mask, or if there was no vote (baselines).
    """
    rows = itertools.chain.from_iterable(
        shards.read_rows(path, ["proposals", "status"]) for path in masks
    )
    counts = [row["proposals"] for row in rows if row["status"] == shards.OK]
    if not counts or None in counts:
        return None
    return float(np.mean(counts))
