"""COCO instances: confident objects with scores, and the pseudo-labels with their class names.

Images are not copied: `file_name` is relative to the dataset's root.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.exports import polygons
from workflow_scripts.maskdistill.exports.content import Content, Picture
from workflow_scripts.maskdistill.files import coco_json, masks


def write(content: Content, folder: Path) -> None:
    """Write predictions.json, pseudo_labels.json and, on request, copies with polygons."""
    predictions = instances(content.pictures(), content.names)
    pseudo_labels = datasets.read_coco(content.pseudo_labels)
    pseudo_labels["categories"] = coco_json.categories(content.names)
    for name, whole in (("predictions", predictions), ("pseudo_labels", pseudo_labels)):
        (folder / f"{name}.json").write_text(json.dumps(whole), encoding="utf-8")
        if content.polygons:
            copy = with_polygons(whole, content.polygon_tolerance)
            (folder / f"{name}_polygons.json").write_text(json.dumps(copy), encoding="utf-8")


def instances(pictures: Iterable[Picture], names: Sequence[str]) -> dict:
    """Confident objects as a COCO dataset whose annotations have a score.

    Args:
        names: names of pseudo-classes 1..K.
    """
    images, rows = [], []
    for picture in pictures:
        images.append(
            {name: getattr(picture, name) for name in ("image_id", "file_name", "height", "width")}
        )
        rows += picture.objects
    result = coco_json.dataset(
        images,
        rows,
        {(row["image_id"], row["candidate_id"]): row["cluster"] for row in rows},
        names,
        {"description": "MaskDistill predictions"},
        mask_id="candidate_id",
    )
    for annotation, row in zip(result["annotations"], rows, strict=True):
        annotation["score"] = row["score"]
    return result


def with_polygons(dataset: Mapping, tolerance: float) -> dict:
    """A COCO dataset with polygons instead of run lengths; areas and boxes are not changed.

    Args:
        tolerance: in pixels, see `polygons.simplify`.
    """

    def convert(annotation: Mapping) -> dict:
        rle = annotation["segmentation"]
        mask = masks.decode(rle["counts"].encode("ascii"), *rle["size"])
        rings = [ring.ravel().tolist() for ring in polygons.trace(mask, tolerance)]
        return {**annotation, "segmentation": rings}

    return {**dataset, "annotations": [convert(a) for a in dataset["annotations"]]}
