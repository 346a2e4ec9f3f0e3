"""Write masks and clusters of the training images as one COCO dataset file.

It lists every readable image, including those without a mask. Clusters that were dropped by the
user are left out, and clusters that were merged are one category.
"""

import itertools
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import cluster_files, coco_json, provenance, shards

MASK_COLUMNS = [
    *("image_id", "mask_id", "height", "width", "rle_counts"),
    *("x", "y", "box_width", "box_height", "area", "status"),
]


def main(argv: list[str] | None = None) -> int:
    """Write the COCO file; exit code 0."""
    parser = cli.Parser("write_pseudo_labels", __doc__)
    parser.add_input("--images", nargs="+", required=True, help="manifests")
    cli.add_max_rejected(parser)
    parser.add_input("--masks", nargs="+", required=True, help="their masks")
    parser.add_input("--assignments", required=True, help="assignments that cluster_masks wrote")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--expected-assignments",
        help="digest of the assignments when their clusters were named; other ones are an error",
    )
    options = parser.parse_args(argv)
    settings = options.settings

    expected = options.expected_assignments
    if expected and (found := cluster_files.assignments_digest(options.assignments)) != expected:
        raise InputError(
            f"{options.assignments}: the clusters ({found}) differ from those that were named "
            f"({expected}); look at the new ones with `snakemake "
            "contact_sheets` and correct config/names, or remove its line `assignments`"
        )
    listed = list(itertools.chain.from_iterable(map(shards.read_rows, options.images)))
    datasets.check_rejected(listed, options.max_rejected, "the training images")
    listed = sorted(
        (row for row in listed if row["status"] == shards.OK), key=lambda row: row["file_name"]
    )
    place = {row["image_id"]: number for number, row in enumerate(listed)}
    classes = settings["curation"]["classes"]
    class_of = cluster_files.read_classes(options.assignments, classes)
    # Columns need less memory than rows; only a few become rows at a time, when they are written.
    table = shards.read_table(options.masks, MASK_COLUMNS)
    keys = list(zip(table["image_id"].to_pylist(), table["mask_id"].to_pylist(), strict=True))
    shards.assert_same_images(place, (image_id for image_id, _ in keys), "the masks")
    kept = [
        (place[key[0]], key[1], number)
        for number, (key, status) in enumerate(zip(keys, table["status"].to_pylist(), strict=True))
        if status == shards.OK and class_of[key]
    ]
    order = [number for *_, number in sorted(kept)]
    coco_json.write_dataset(
        options.output,
        listed,
        shards.rows_in_order(table, order),
        class_of,
        coco_json.category_names(settings["clustering"]["clusters"], classes),
    )
    provenance.write_record(options.output, cli.record(options, "pseudo_labels"))
    print(f"{len(listed)} images, {len(order)} masks")
    return 0


if __name__ == "__main__":
    cli.run(main)
