"""Score the label maps of every step against the ground truth: mIoU and more.

A step is one kind of label maps, for instance `initial_masks` or `segmentation`. Clusters are
matched to classes for each step separately. No stage before this one reads labels.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth, require_labels
from workflow_scripts.maskdistill.evaluation import semantic_scores
from workflow_scripts.maskdistill.files import csv_files, shards
from workflow_scripts.maskdistill.files.atomic import write_text


def main(argv: list[str] | None = None) -> int:
    """Write metrics and tables per class; exit code 0."""
    parser = cli.Parser("evaluate", __doc__)
    cli.add_root(parser)
    parser.add_argument("--split", required=True, help="split whose labels are read")
    cli.add_labels(parser)
    parser.add_input("--images", nargs="+", required=True, help="manifest shards of the split")
    cli.add_max_rejected(parser)
    parser.add_input(
        "--step",
        words=1,
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "SHARD"),
        help="a step's name and its shards of label maps; repeat for every step, in order",
    )
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="the label maps hold classes (linear probe) instead of clusters; do not match them",
    )
    parser.add_argument("--workers", type=int, default=1, help="threads that count pixels")
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
    manifest = shards.read_table(options.images, ["image_id", "file_name", "status"]).to_pylist()
    require_labels(options.labels, settings["dataset"], options.root, options.split, manifest)
    datasets.check_rejected(manifest, options.max_rejected, f"the split '{options.split}'")
    usable = [row["image_id"] for row in manifest if row["status"] == shards.OK]
    clusters = None if options.supervised else settings["clustering"]["clusters"]
    with ThreadPoolExecutor(options.workers) as pool:
        steps = {
            name: semantic_scores.score_step(name, paths, truth, usable, pool, clusters=clusters)
            for name, *paths in options.step
        }
    truth.print_turned()
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
        "clusters": clusters or len(truth.class_names),
        "class_names": ["background", *truth.class_names],
        "steps": steps,
    }
    rows = semantic_scores.class_rows(steps)
    csv_files.write_csv(options.per_class_csv, rows, shards.schema("per_class").names, record)
    shards.write_table(options.per_class_parquet, "per_class", rows, record)
    write_text(options.output, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
