"""Paint the boxes of the confident candidates of one shard into label maps (Table S1).

With `--grabcut` the object is cut out of its box by its colours. As with masks, the more confident
candidate wins where two overlap.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import images, label_maps, shards
from workflow_scripts.maskdistill.paper.masks_from_boxes import box_mask, grabcut
from workflow_scripts.maskdistill.progress import progress


def main(argv: list[str] | None = None) -> int:
    """Write the label maps of one shard; exit code 0."""
    parser = cli.Parser("paint_boxes", __doc__)
    cli.add_root(parser)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--confident", required=True, help="confident candidates")
    parser.add_argument("--grabcut", action="store_true", help="cut objects out of their boxes")
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
            pixels = None
            if options.grabcut and found:
                pixels = images.read_listed(options.root / row["file_name"], size)
            layers = []
            for candidate in reversed(found):  # the most confident one stands first
                box = tuple(candidate[name] for name in ("x", "y", "box_width", "box_height"))
                mask = box_mask(box, size) if pixels is None else grabcut(pixels, box)
                layers.append((mask, candidate["cluster"]))
            labels = label_maps.paint(size, layers, clusters)
            writer.write(label_maps.row(row["image_id"], row["file_name"], labels))
    return 0


if __name__ == "__main__":
    cli.run(main)
