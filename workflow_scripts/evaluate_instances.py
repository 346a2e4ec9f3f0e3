"""Score initial masks and candidates against the annotated objects: mask AP, coverage, calibration.

Class-aware scores need a class for each cluster. It is taken from the metrics that evaluate wrote
for the same step. evaluate matches clusters to classes on the label maps of `val`, even if objects
of more images are scored here.
"""

import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth, require_labels
from workflow_scripts.maskdistill.evaluation import detections, object_scores
from workflow_scripts.maskdistill.evaluation.step_titles import CANDIDATE_STEPS, candidate_step
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json


def main(argv: list[str] | None = None) -> int:
    """Write the metrics of objects; exit code 0."""
    parser = cli.Parser("evaluate_instances", __doc__)
    cli.add_root(parser)
    parser.add_argument("--split", required=True, help="split whose labels are read")
    cli.add_labels(parser)
    parser.add_input("--images", nargs="+", required=True, help="manifest shards of the split")
    cli.add_max_rejected(parser)
    parser.add_input("--masks", nargs="+", required=True, help="initial masks")
    parser.add_input("--assignments", nargs="+", required=True, help="clusters of these masks")
    parser.add_input("--candidates", nargs="*", default=[], help="candidates of Mask R-CNN, if any")
    parser.add_input("--metrics", required=True, help="metrics.json of evaluate")
    parser.add_argument("--workers", type=int, default=1, help="threads that decode labels")
    parser.add_argument("--output", type=Path, required=True, help="instance metrics, JSON")
    options = parser.parse_args(argv)
    settings = options.settings

    truth = GroundTruth(settings["dataset"], options.root, options.split)
    columns = ["image_id", "file_name", "height", "width", "status"]
    manifest = shards.read_table(options.images, columns).to_pylist()
    require_labels(
        options.labels, settings["dataset"], options.root, options.split, manifest, objects=True
    )
    datasets.check_rejected(manifest, options.max_rejected, f"the split '{options.split}'")
    images = [row for row in manifest if row["status"] == shards.OK]
    objects = detections.annotated_objects(truth, images, options.workers)
    truth.print_turned()
    metrics = read_json(options.metrics, remedy="run evaluate again")

    classes = settings["curation"]["classes"]
    found = {
        "initial_masks": detections.masks_by_image(options.masks, options.assignments, classes)
    }
    if options.candidates:
        step = candidate_step(metrics["steps"]) or CANDIDATE_STEPS[0]
        found[step] = detections.candidates_by_image(options.candidates)
    steps = {}
    for step, by_image in found.items():
        batches = detections.batches_of_images(objects, by_image)
        steps[step] = object_scores.score_step(step, batches, metrics, len(images))
    steps["initial_masks"]["proposals_per_mask"] = detections.proposals_per_mask(options.masks)
    result = {
        "provenance": cli.record(
            options, "evaluate_instances", split=options.split, labels=options.labels
        ),
        "split": options.split,
        "images": len(images),
        "objects": sum(count for count, _ in objects.values()),
        # The images on whose label maps evaluate matched clusters to classes.
        "matched_on": {"split": metrics["split"], "images": metrics["images"]},
        "class_names": list(truth.class_names),
        "steps": steps,
    }
    write_text(options.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
