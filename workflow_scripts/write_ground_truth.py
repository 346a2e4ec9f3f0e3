"""Write the ground truth of one shard of images as label maps for the linear probe."""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth, require_labels
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards


def main(argv: list[str] | None = None) -> int:
    """Write the label maps of one shard; exit code 0."""
    parser = cli.Parser("write_ground_truth", __doc__)
    cli.add_root(parser)
    parser.add_argument("--split", required=True, help="split whose labels are read")
    cli.add_labels(parser)
    parser.add_input("--images", required=True, help="manifest shard")
    parser.add_argument("--output", type=Path, required=True, help="label maps, Parquet")
    options = parser.parse_args(argv)
    dataset = options.settings["dataset"]
    manifest = list(shards.read_rows(options.images))
    require_labels(options.labels, dataset, options.root, options.split, manifest)
    truth = GroundTruth(dataset, options.root, options.split)
    metadata = cli.record(options, "ground_truth", split=options.split, labels=options.labels)
    with shards.shard_writer(options.output, "label_maps", metadata) as writer:
        for row in manifest:
            if row["status"] != shards.OK:
                continue
            labels = truth.semantic(row["image_id"], row["file_name"])
            if labels.shape != (row["height"], row["width"]):
                raise InputError(
                    f"{row['file_name']}: labels of {labels.shape[0]} x {labels.shape[1]} px, but "
                    f"the image has {row['height']} x {row['width']}; correct the labels"
                )
            writer.write(label_maps.row(row["image_id"], row["file_name"], labels))
    truth.print_turned()
    return 0


if __name__ == "__main__":
    cli.run(main)
