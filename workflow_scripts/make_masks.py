"""Make object masks from features: top-k, source, diffusion over the key affinity.

An image without a mask has one row, whose `status` says why.
"""

import functools

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.discovery.initial_masks import write_masks
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings


def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    options = cli.features_parser("make_masks", __doc__).parse_args(argv)
    find = functools.partial(
        affinity.object_masks, settings=MaskSettings.read(options.settings["masks"])
    )
    record = cli.record(options, "masks")
    write_masks(options.images, options.features, options.output, find, record)
    return 0


if __name__ == "__main__":
    cli.run(main)
