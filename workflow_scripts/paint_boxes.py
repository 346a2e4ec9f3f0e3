"""Paint the boxes of the confident candidates of one shard into label maps (the paper's Table S1).

With `--grabcut`, the object that GrabCut finds in a box is painted instead of the box. Where
candidates overlap, the more confident one is on top.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import images, label_maps, shards
from workflow_scripts.maskdistill.paper import masks_from_boxes
from workflow_scripts.maskdistill.progress import progress


def main(argv: list[str] | None = None) -> int:
    """Write the label maps of one shard; exit code 0."""
    parser = cli.Parser("paint_boxes", __doc__)
    cli.add_root(parser)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--confident", required=True, help="confident candidates")
    parser.add_argument("--grabcut", action="store_true", help="segment objects by GrabCut")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    clusters = options.settings["clustering"]["clusters"]

    listed = shards.read_usable(options.images)
    by_image = shards.group_by_image(options.confident)
    shards.assert_same_images((row["image_id"] for row in listed), by_image, str(options.confident))
    metadata = cli.record(options, "label_maps")
    with shards.shard_writer(options.output, "label_maps", metadata) as writer:
        for row in progress(listed, description="boxes", unit="image", total=len(listed)):
            size = (row["height"], row["width"])
            found = [c for c in by_image[row["image_id"]] if c["candidate_id"] is not None]
            image = None
            if options.grabcut and found:
                image = images.read_listed(options.root / row["file_name"], size)
            labels = masks_from_boxes.paint_boxes(found, size, clusters, image)
            writer.write(label_maps.row(row["image_id"], row["file_name"], labels))
    return 0


if __name__ == "__main__":
    cli.run(main)
