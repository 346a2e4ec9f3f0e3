"""Extract the features for the masks: queries and keys of the backbone's last attention block.

With `features.tokens`, the output of this block is stored, too.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery.features import feature_rows, load_backbone
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings


@report_out_of_memory("lower runtime.batch_size or features.shorter_side")
def main(argv: list[str] | None = None) -> int:
    """Write the features of one shard; exit code 0."""
    options = cli.images_parser("extract_features", __doc__).parse_args(argv)
    settings = FeatureSettings.read(options.settings["features"])

    backbone = load_backbone(settings, options.device)
    metadata = cli.record(
        options,
        "features",
        files=[settings.weights],
        patch_size=backbone.patch_size,
        weights=backbone.weights_digest,
    )
    rows = feature_rows(
        backbone,
        settings,
        shards.read_usable(options.images),
        options.root,
        batch_size=options.batch_size,
        workers=options.workers,
        with_tokens=settings.tokens,
    )
    with shards.shard_writer(options.output, "features", metadata, rows_per_group=16) as writer:
        for row in rows:
            writer.write(row)
    return 0


if __name__ == "__main__":
    cli.run(main)
