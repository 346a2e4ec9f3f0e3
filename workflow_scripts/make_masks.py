"""Make object masks from features: the affinity of [CLS] to patches, diffused (Eq. 1 and 2).

An image without a mask has one row, whose `status` says why. With `masks.refinement`, the images
are read too.
"""

import functools
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.discovery.initial_masks import write_masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.segmentation.mask_refinement import mask_refiner
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings


def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    parser = cli.features_parser("make_masks", __doc__)
    parser.add_argument(
        "--root", type=Path, help="folder of the images, which are read for masks.refinement only"
    )
    options = parser.parse_args(argv)
    settings = MaskSettings.read(options.settings["masks"])
    refine = mask_refiner(settings)
    if refine is not None and options.root is None:
        raise InputError("masks.refinement needs the images; give their folder as --root")
    write_masks(
        options.images,
        options.features,
        options.output,
        functools.partial(affinity.object_masks, settings=settings),
        cli.record(options, "masks"),
        settings=settings,
        root=options.root,
        refine=refine,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
