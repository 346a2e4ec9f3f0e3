"""Make object masks from images directly, without storing the features.

The masks are the same as those of extract_features and make_masks, but after a change of a setting
such as `masks.top_k` the backbone has to run again.
"""

import functools
from collections import Counter

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.discovery.features import feature_rows, load_backbone
from workflow_scripts.maskdistill.discovery.initial_masks import describe, mask_rows
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.segmentation.mask_refinement import mask_refiner
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings


@report_out_of_memory("lower runtime.batch_size or features.shorter_side")
def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    options = cli.images_parser("extract_masks", __doc__).parse_args(argv)
    settings = FeatureSettings.read_part(options.settings["features"])

    backbone = load_backbone(settings, options.device)
    mask_settings = MaskSettings.read(options.settings["masks"])
    find = functools.partial(affinity.object_masks, settings=mask_settings)
    refine = mask_refiner(mask_settings)
    listed = shards.read_usable(options.images)
    sizes = {row["image_id"]: (row["height"], row["width"]) for row in listed}
    features = feature_rows(
        backbone,
        settings,
        listed,
        options.root,
        batch_size=options.batch_size,
        workers=options.workers,
        # Masks are computed on the backbone's device: by PyTorch on a GPU, by NumPy on the CPU.
        fetch=backbone.device.type == "cpu",
        keep_images=refine is not None,
    )
    metadata = cli.record(
        options,
        "masks",
        files=[settings.weights],
        weights=backbone.weights_digest,
    )
    statuses = Counter()
    with shards.shard_writer(options.output, "masks", metadata) as writer:
        for row in features:
            size = sizes[row["image_id"]]
            for mask_row in mask_rows(row, size, backbone.patch_size, find, mask_settings, refine):
                statuses[mask_row["status"]] += 1
                writer.write(mask_row)
    print(describe(statuses))
    return 0


if __name__ == "__main__":
    cli.run(main)
