"""COCO files: pseudo-labels as a dataset, candidates as a list of results."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from workflow_scripts.maskdistill.files.atomic import atomic_path


def category_name(cluster: int) -> str:
    """The default name of a cluster."""
    return f"cluster_{cluster:03d}"


def category_names(count: int, classes: Sequence[int] | None) -> list[str]:
    """Default names of pseudo-classes 1..count; merged clusters give cluster_001+cluster_004.

    Args:
        classes: the classes of clusters 1, 2, …; None if every cluster is its own class.
    """
    if classes is None:
        classes = range(1, count + 1)
    return [
        "+".join(category_name(c) for c, found in enumerate(classes, start=1) if found == number)
        for number in range(1, count + 1)
    ]


def dataset(
    image_rows: Iterable[Mapping],
    mask_rows: Iterable[Mapping],
    assignments: Mapping[tuple[int, int], int],
    names: Sequence[str],
    description: Mapping,
    mask_id: str = "mask_id",
) -> dict:
    """Pseudo-labels as a COCO dataset.

    Args:
        image_rows: manifest rows of the images.
        mask_rows: rows of the masks stage with status ok.
        assignments: (image_id, mask_id) → category, 1, 2, …
        names: names of the categories.
        description: further entries of `info`.
        mask_id: the column that identifies a mask within its image.

    Returns:
        The JSON object; image ids are integers, boxes float XYWH, masks compressed RLE.
    """
    parts = _parts(image_rows, mask_rows, assignments, names, description, mask_id)
    return {name: part if name == "info" else list(part) for name, part in parts.items()}


def write_dataset(
    path: str | os.PathLike,
    image_rows: Iterable[Mapping],
    mask_rows: Iterable[Mapping],
    assignments: Mapping[tuple[int, int], int],
    names: Sequence[str],
) -> None:
    """Write the result of `dataset` as JSON, row by row, so that memory never holds all of it."""
    parts = _parts(image_rows, mask_rows, assignments, names, {}, "mask_id")
    info = parts.pop("info")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps(info)}')
        for name, entries in parts.items():
            file.write(f', "{name}": [')
            for number, entry in enumerate(entries):
                file.write((", " if number else "") + json.dumps(entry))
            file.write("]")
        file.write("}")


def _parts(
    image_rows: Iterable[Mapping],
    mask_rows: Iterable[Mapping],
    assignments: Mapping[tuple[int, int], int],
    names: Sequence[str],
    description: Mapping,
    mask_id: str,
) -> dict:
    """The entries of the JSON object in order; long lists are iterators."""
    return {
        "info": {"description": "MaskDistill pseudo-labels", **description},
        "images": (
            {
                "id": row["image_id"],
                "file_name": row["file_name"],
                "height": row["height"],
                "width": row["width"],
            }
            for row in image_rows
        ),
        "annotations": (
            {
                "id": number,
                "image_id": row["image_id"],
                "category_id": assignments[row["image_id"], row[mask_id]],
                "iscrowd": 0,
                **_shape(row),
            }
            for number, row in enumerate(mask_rows, start=1)
        ),
        "categories": categories(names),
    }


def categories(names: Sequence[str]) -> list[dict]:
    """Categories 1, 2, … with these names."""
    return [
        {"id": number, "name": name, "supercategory": "cluster"}
        for number, name in enumerate(names, start=1)
    ]


def results(candidate_rows: Iterable[Mapping]) -> Iterator[dict]:
    """Candidates as entries of a COCO results list, for `COCO.loadRes`."""
    for row in candidate_rows:
        if row["candidate_id"] is not None:
            yield {
                "image_id": row["image_id"],
                "category_id": row["cluster"],
                "score": row["score"],
                **_shape(row),
            }


def _shape(row: Mapping) -> dict:
    return {
        "segmentation": {
            "size": [row["height"], row["width"]],
            "counts": row["rle_counts"].decode("ascii"),
        },
        "bbox": [row["x"], row["y"], row["box_width"], row["box_height"]],
        "area": row["area"],
    }
