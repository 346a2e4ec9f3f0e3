"""Make object masks from images: extract_features and make_masks without storing the features.

The masks are the same. After a change of a setting such as top-k, the backbone runs again.
"""

import functools

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.discovery.features import feature_rows, load_backbone
from workflow_scripts.maskdistill.discovery.initial_masks import mask_rows
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings


@report_out_of_memory("lower runtime.batch_size or features.shorter_side")
def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    options = cli.images_parser("extract_masks", __doc__).parse_args(argv)
    settings = FeatureSettings.read(options.settings["features"])

    backbone = load_backbone(settings, options.device)
    find = functools.partial(
        affinity.object_masks, settings=MaskSettings.read(options.settings["masks"])
    )
    listed = shards.read_usable(options.images)
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in listed}
    features = feature_rows(
        backbone,
        settings,
        listed,
        options.root,
        batch_size=options.batch_size,
        workers=options.workers,
        # On a GPU masks are computed there by torch, on the host by NumPy.
        fetch=backbone.device.type == "cpu",
    )
    metadata = cli.record(
        options,
        "masks",
        files=[settings.weights],
        weights=backbone.weights_digest,
    )
    with shards.shard_writer(options.output, "masks", metadata) as writer:
        for row in features:
            for mask_row in mask_rows(row, sizes[row["image_id"]], backbone.patch_size, find):
                writer.write(mask_row)
    return 0


if __name__ == "__main__":
    cli.run(main)
