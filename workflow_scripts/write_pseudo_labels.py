"""Write masks and clusters of the training images as one COCO dataset file.

It holds every readable image, also those in which no mask was found. Masks of clusters that were
dropped are left out, and clusters that were merged are one category.
"""

import itertools
import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill import atomic, coco, datasets, shards
from workflow_scripts.maskdistill.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Write the COCO file; exit code 0."""
    parser = cli.parser(__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument("--masks", type=Path, nargs="+", required=True, help="their masks")
    parser.add_argument("--assignments", type=Path, required=True, help="of cluster_masks")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--expected-assignments", help="their digest when their clusters were named, if they were"
    )
    arguments = parser.parse_args(argv)
    settings = arguments.settings

    found = shards.assignments_digest(arguments.assignments)
    if arguments.expected_assignments not in (None, found):
        raise InputError(
            f"{arguments.assignments}: other clusters ({found}) than those that were named "
            f"({arguments.expected_assignments}); look at the new ones with `snakemake "
            "contact_sheets` and correct config/names, or remove its line `assignments`"
        )
    listed = list(itertools.chain.from_iterable(map(shards.read_rows, arguments.images)))
    datasets.check_rejected(
        listed,
        max_rejected=settings["images"]["max_rejected"],
        max_rejected_count=settings["images"]["max_rejected_count"],
        what="the training images",
    )
    listed = sorted(
        (row for row in listed if row["status"] == shards.OK), key=lambda row: row["file_name"]
    )
    place = {row["image_id"]: number for number, row in enumerate(listed)}
    mask_rows = list(itertools.chain.from_iterable(map(shards.read_rows, arguments.masks)))
    shards.assert_same_images(place, (row["image_id"] for row in mask_rows), "the masks")
    mask_rows = sorted(
        (row for row in mask_rows if row["status"] == shards.OK),
        key=lambda row: (place[row["image_id"]], row["mask_id"]),
    )
    classes = settings["curation"]["classes"]
    class_of = shards.read_classes(arguments.assignments, classes)
    mask_rows = [row for row in mask_rows if class_of[row["image_id"], row["mask_id"]]]
    content = coco.dataset(
        listed,
        mask_rows,
        class_of,
        coco.category_names(settings["clustering"]["clusters"], classes),
        {"settings": settings},
    )
    atomic.write_text(arguments.output, json.dumps(content))
    print(f"{len(listed)} images, {len(mask_rows)} masks")
    return 0


if __name__ == "__main__":
    cli.run(main)
