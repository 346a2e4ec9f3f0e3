"""Pictures of the report: examples with every step's label map, and typical masks of clusters."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files import images, label_maps, shards
from workflow_scripts.maskdistill.pictures import crops, drawing, overlays
from workflow_scripts.maskdistill.pictures.step_colours import StepColours
from workflow_scripts.maskdistill.report.inputs import ReportInputs, read

PICTURE_SIZE = 320  # longer side of an example, in pixels
CROP_SIZE = 96


def legend(inputs: ReportInputs, clusters: Mapping[str, StepColours]) -> list[dict]:
    """Colours and names: of the classes if there is ground truth, otherwise of the clusters."""
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
    inputs: ReportInputs, manifest: Sequence[Mapping], clusters: Mapping[str, StepColours]
) -> list[dict]:
    """Images with every step's label map, evenly spread over the split sorted by name."""
    usable = sorted((r for r in manifest if r["status"] == shards.OK), key=lambda r: r["file_name"])
    count = min(inputs.settings["report"]["examples"], len(usable))
    # The image in the middle of each of `count` equal parts of the list.
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
                raise InputError(
                    f"{row['file_name']}: the step '{step}' has no label map of this image; run "
                    "the step again"
                )
            labels = label_maps.decode_png(label_map[row["image_id"]])
            pictures.append(_painted(step_title(step), small, labels, clusters[step].colours))
        result.append({"file_name": row["file_name"], "pictures": pictures})
    return result


def _painted(title: str, image: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> dict:
    labels = overlays.shown(labels, colours, image.shape[:2])
    return {
        "title": title,
        "uri": drawing.data_uri(drawing.overlay(image, labels, colours)),
        "colours": {drawing.css_colour(colours[label]) for label in np.unique(labels)},
    }


def contact_sheets(
    inputs: ReportInputs,
    manifest: Mapping[str, Sequence[Mapping]],
    clusters: Mapping[str, StepColours],
) -> list[dict]:
    """Size, class, and masks nearest to the centroid of every cluster."""
    members = defaultdict(dict)
    for row in read(inputs.assignments):
        members[row["cluster"]][row["image_id"], row["mask_id"]] = row["distance"]
    file_names = {
        row["image_id"]: row["file_name"]
        for rows in manifest.values()
        for row in rows
        if row["status"] == shards.OK
    }
    chosen = {}
    for cluster, distances in members.items():
        keys = [key for key in distances if key[0] in file_names]
        values = [distances[key] for key in keys]
        chosen[cluster] = crops.nearest(keys, values, inputs.settings["report"]["crops"])
    pictures = crops.read_crops(
        (key for keys in chosen.values() for key in keys),
        (path for paths in inputs.images.values() for path in paths),
        (path for paths in inputs.masks.values() for path in paths),
        inputs.root,
        CROP_SIZE,
    )
    # The label maps of the first step show the clustered masks, so its colours and classes fit.
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
                    {
                        "uri": drawing.data_uri(pictures[key], quality=80),
                        "file_name": file_names[key[0]],
                        "distance": members[cluster][key],
                    }
                    for key in chosen.get(cluster, [])
                    if key in pictures
                ],
            }
        )
    return sheets
