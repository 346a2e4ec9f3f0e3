"""Write masks and clusters of the training images as one COCO dataset file.

It holds every readable image, also those in which no mask was found.
"""

import itertools
import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill import atomic, coco, datasets, shards


def main(argv: list[str] | None = None) -> int:
    """Write the COCO file; exit code 0."""
    parser = cli.parser(__doc__)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument("--masks", type=Path, nargs="+", required=True, help="their masks")
    parser.add_argument("--assignments", type=Path, required=True, help="of cluster_masks")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(argv)
    settings = arguments.settings

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
    assignments = {
        (row["image_id"], row["mask_id"]): row["cluster"]
        for row in shards.read_rows(arguments.assignments)
    }
    content = coco.dataset(
        listed,
        mask_rows,
        assignments,
        settings["clustering"]["clusters"],
        {"settings": settings},
    )
    atomic.write_text(arguments.output, json.dumps(content))
    print(f"{len(listed)} images, {len(mask_rows)} masks")
    return 0


if __name__ == "__main__":
    cli.run(main)
