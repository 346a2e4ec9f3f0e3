"""Make object masks from features: top-k, source, diffusion over the key affinity.

An image without a mask keeps a row that says why in `status`.
"""

import functools

from workflow_scripts import cli
from workflow_scripts.maskdistill import affinity
from workflow_scripts.maskdistill.initial_masks import write_masks


def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    arguments = cli.features_parser(__doc__).parse_args(argv)
    settings = arguments.settings
    find = functools.partial(affinity.object_masks, **settings["masks"])
    write_masks(
        arguments.images, arguments.features, arguments.output, settings, find, rule="make_masks"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
