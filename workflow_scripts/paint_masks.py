"""Paint the initial masks of one shard, with their clusters, into label maps.

If an image has several masks, the first one (nearest to [CLS]) is on top. Masks of clusters that
were dropped by the user are not painted.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import cluster_files, label_maps, masks, shards

MASK_COLUMNS = ["image_id", "mask_id", "height", "width", "rle_counts", "status"]


def main(argv: list[str] | None = None) -> int:
    """Write the label maps of one shard; exit code 0."""
    parser = cli.Parser("paint_masks", __doc__)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--masks", required=True, help="the shard's masks")
    parser.add_input("--assignments", required=True, help="assignments that include these masks")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    clusters = options.settings["clustering"]["clusters"]
    classes = options.settings["curation"]["classes"]

    images = shards.read_usable(options.images)
    by_image = shards.group_by_image(options.masks, MASK_COLUMNS)
    shards.assert_same_images((row["image_id"] for row in images), by_image, str(options.masks))
    class_of = cluster_files.read_classes(options.assignments, classes, by_image)
    metadata = cli.record(options, "label_maps")
    with shards.shard_writer(options.output, "label_maps", metadata) as writer:
        for row in images:
            layers = (
                (
                    masks.decode(mask["rle_counts"], mask["height"], mask["width"]),
                    class_id,
                )
                for mask in reversed(by_image[row["image_id"]])
                if mask["status"] == shards.OK
                and (class_id := class_of[mask["image_id"], mask["mask_id"]])
            )
            labels = label_maps.paint((row["height"], row["width"]), layers, clusters)
            writer.write(label_maps.row(row["image_id"], row["file_name"], labels))
    return 0


if __name__ == "__main__":
    cli.run(main)
