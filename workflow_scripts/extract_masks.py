"""Make object masks from images in one go: extract_features and make_masks, and nothing stored.

The masks are the same. Another top-k, say, then needs the backbone once more.
"""

import functools
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.extract_features import feature_rows, images_of, load_backbone
from workflow_scripts.make_masks import mask_rows
from workflow_scripts.maskdistill import affinity, shards


def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    parser = cli.parser(__doc__)
    cli.add_root(parser)
    cli.add_runtime(parser)
    parser.add_argument("--images", type=Path, required=True, help="the shard's manifest")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args(argv)
    settings = arguments.settings

    backbone = load_backbone(settings["features"], arguments.device)
    find = functools.partial(affinity.object_masks, **settings["masks"])
    listed = images_of(arguments.images)
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in listed}
    rows = feature_rows(
        backbone,
        settings["features"],
        listed,
        arguments.root,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )
    metadata = shards.provenance("masks", settings)
    with shards.shard_writer(arguments.output, "masks", metadata) as writer:
        for row in rows:
            for mask_row in mask_rows(row, sizes[row["image_id"]], backbone.patch_size, find):
                writer.write(mask_row)
    return 0


if __name__ == "__main__":
    cli.run(main)
