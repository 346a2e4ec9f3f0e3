"""Keep the confident candidates of one shard and paint them into label maps."""

import functools
import itertools
import operator
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.segmentation import confidence


def main(argv: list[str] | None = None) -> int:
    """Write confident candidates and label maps of one shard; exit code 0."""
    parser = cli.Parser("filter_candidates", __doc__)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--candidates", required=True, help="the shard's candidates")
    parser.add_argument("--confident", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--label-maps", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    settings = options.settings["confidence"]
    above_threshold = functools.partial(
        confidence.confident, threshold=settings["threshold"], keep_best=settings["keep_best"]
    )
    clusters = options.settings["clustering"]["clusters"]

    images = shards.read_usable(options.images)
    # Most candidates are not confident and are not kept in memory.
    by_image: dict[int, list] = {}
    candidates = shards.read_rows(options.candidates)
    for image_id, found in itertools.groupby(candidates, key=operator.itemgetter("image_id")):
        rows = [*by_image.get(image_id, []), *found]
        by_image[image_id] = above_threshold(rows) or rows[:1]
    shards.assert_same_images(
        (row["image_id"] for row in images), by_image, str(options.candidates)
    )
    metadata = cli.record(options, "confident")
    with (
        shards.shard_writer(options.confident, "confident", metadata) as confident_writer,
        shards.shard_writer(
            options.label_maps, "label_maps", {**metadata, "stage": "label_maps"}
        ) as label_map_writer,
    ):
        for image in images:
            rows = by_image[image["image_id"]]
            ranked = above_threshold(rows, overlap=settings["overlap"])
            # An image without a confident candidate has one row, with its id and nothing else.
            for row in ranked or [{"image_id": image["image_id"]}]:
                confident_writer.write(row)
            labels = confidence.paint(ranked, (image["height"], image["width"]), clusters)
            label_map_writer.write(label_maps.row(image["image_id"], image["file_name"], labels))
    return 0


if __name__ == "__main__":
    cli.run(main)
