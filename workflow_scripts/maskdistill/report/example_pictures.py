"""Pictures of the report: examples with every step's label map, and clusters by their masks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files import images, label_maps, masks, shards
from workflow_scripts.maskdistill.pictures import drawing
from workflow_scripts.maskdistill.pictures.step_colours import StepColours
from workflow_scripts.maskdistill.report.sources import Inputs, read

PICTURE_SIZE = 320  # longer side of an example, in pixels
CROP_SIZE = 96


def legend(inputs: Inputs, clusters: Mapping[str, StepColours]) -> list[dict]:
    """Colours and what they stand for: classes where there is ground truth, else clusters."""
    own_names = ["background", *inputs.settings["curation"]["names"]]
    if not inputs.metrics:
        colours = next(iter(clusters.values())).colours if clusters else np.zeros((0, 3))
        return [
            {"name": own_names[i], "colour": drawing.css_colour(colour)}
            for i, colour in enumerate(colours)
            if i > 0
        ]
    names = next(iter(inputs.metrics.values()))["class_names"]
    entries = [
        {"name": name, "colour": drawing.css_colour(label_maps.colours(np.array(i)))}
        for i, name in enumerate(names)
        if i > 0
    ]
    unmatched = {
        cluster: colours.colours[cluster]
        for colours in clusters.values()
        for cluster, name in enumerate(colours.classes)
        if name is None
    }
    for cluster, colour in sorted(unmatched.items()):
        entries.append(
            {"name": f"{own_names[cluster]}, unmatched", "colour": drawing.css_colour(colour)}
        )
    return entries


def examples(
    inputs: Inputs, manifest: Sequence[Mapping], clusters: Mapping[str, StepColours]
) -> list[dict]:
    """Images, evenly over the split in the order of their names, with every step's label map."""
    usable = sorted((r for r in manifest if r["status"] == shards.OK), key=lambda r: r["file_name"])
    count = min(inputs.settings["report"]["examples"], len(usable))
    # The middles of `count` equal stretches of the list.
    chosen = [usable[int((i + 0.5) * len(usable) / count)] for i in range(count)]
    ids = {row["image_id"] for row in chosen}
    found = {
        step: {
            row["image_id"]: row["image"]["bytes"]
            for path in paths
            for row in shards.read_rows(path)
            if row["image_id"] in ids
        }
        for step, paths in inputs.steps.items()
    }
    truth = None
    if inputs.metrics:
        truth = GroundTruth(inputs.settings["dataset"], inputs.root, inputs.split)
    result = []
    for row in chosen:
        image = images.read_image(inputs.root / row["file_name"])
        small = drawing.thumbnail(image, PICTURE_SIZE)
        pictures = [{"title": "Image", "uri": drawing.data_uri(small), "colours": set()}]
        if truth is not None:
            labels = truth.semantic(row["image_id"], row["file_name"])
            colours = label_maps.colours(np.arange(len(truth.class_names) + 1))
            pictures.append(_painted("Ground truth", small, labels, colours))
        for step, label_map in found.items():
            if row["image_id"] not in label_map:
                raise InputError(f"{row['file_name']}: no label map in step '{step}'; run it again")
            labels = label_maps.decode_png(label_map[row["image_id"]])
            pictures.append(_painted(step_title(step), small, labels, clusters[step].colours))
        result.append({"file_name": row["file_name"], "pictures": pictures})
    return result


def _painted(title: str, image: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> dict:
    labels = np.where(labels == label_maps.ignore_value(labels), 0, labels)
    labels = drawing.thumbnail_labels(labels, PICTURE_SIZE)
    # Clusters that stand for background have its colour and are shown as background.
    labels[(colours == 0).all(axis=1)[labels]] = 0
    return {
        "title": title,
        "uri": drawing.data_uri(drawing.overlay(image, labels, colours)),
        "colours": {drawing.css_colour(colours[label]) for label in np.unique(labels)},
    }


def contact_sheets(
    inputs: Inputs,
    manifest: Mapping[str, Sequence[Mapping]],
    clusters: Mapping[str, StepColours],
) -> list[dict]:
    """For every cluster its size, its class, and the masks nearest to its centroid."""
    members = defaultdict(list)
    for row in read(inputs.assignments):
        members[row["cluster"]].append((row["distance"], row["image_id"], row["mask_id"]))
    file_names = {
        row["image_id"]: row["file_name"]
        for rows in manifest.values()
        for row in rows
        if row["status"] == shards.OK
    }
    chosen = {
        cluster: [m for m in sorted(found) if m[1] in file_names][
            : inputs.settings["report"]["crops"]
        ]
        for cluster, found in members.items()
    }
    crops = _crops(inputs, {m[1:] for found in chosen.values() for m in found}, file_names)
    # The first step is the one whose label maps are the clusters' own masks.
    first = next(iter(clusters.values()), None)
    curation = inputs.settings["curation"]
    count = inputs.settings["clustering"]["clusters"]
    sheets = []
    for cluster, label in enumerate(curation["classes"] or range(1, count + 1), start=1):
        sheets.append(
            {
                "cluster": cluster,
                "name": curation["names"][label - 1] if label else "background",
                "size": len(members[cluster]),
                "class_name": first.classes[label] if first else None,
                "colour": drawing.css_colour(first.colours[label]) if first else None,
                "crops": [
                    {"uri": crops[m[1:]], "file_name": file_names[m[1]], "distance": m[0]}
                    for m in chosen.get(cluster, [])
                    if m[1:] in crops
                ],
            }
        )
    return sheets


def _crops(
    inputs: Inputs, wanted: set[tuple[int, int]], file_names: Mapping[int, str]
) -> dict[tuple[int, int], str]:
    """(image_id, mask_id) → data URI; every image is read once."""
    columns = ["image_id", "mask_id", "rle_counts", "height", "width"]
    by_image = defaultdict(dict)
    for paths in inputs.masks.values():
        for path in paths:
            for row in shards.read_rows(path, columns):
                if (row["image_id"], row["mask_id"]) in wanted:
                    by_image[row["image_id"]][row["mask_id"]] = row
    result = {}
    for image_id, rows in by_image.items():
        image = images.read_image(inputs.root / file_names[image_id])
        for mask_id, row in rows.items():
            mask = masks.decode(row["rle_counts"], row["height"], row["width"])
            crop = drawing.masked_crop(image, mask, CROP_SIZE)
            result[image_id, mask_id] = drawing.data_uri(crop, quality=80)
    return result
