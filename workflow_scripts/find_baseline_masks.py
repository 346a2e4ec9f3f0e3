"""Make the object masks of a baseline from the features of one shard: DINO-seg or LOST.

An image without a mask has one row, whose `status` says why.
"""

import numpy as np

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import affinity, baselines
from workflow_scripts.maskdistill.discovery.initial_masks import write_masks


def main(argv: list[str] | None = None) -> int:
    """Write the masks of one shard; exit code 0."""
    parser = cli.features_parser("find_baseline_masks", __doc__)
    parser.add_argument("--baseline", choices=["dino_seg", "lost"], required=True, help="method")
    options = parser.parse_args(argv)
    settings = options.settings
    own = settings["evaluation"]["ablations"]

    def find(
        keys: np.ndarray, cls_affinity: np.ndarray, grid: tuple[int, int]
    ) -> list[affinity.ObjectMask]:
        if options.baseline == "dino_seg":
            return [baselines.dino_seg(keys, cls_affinity, grid, mass=own["dino_seg_mass"])]
        keys = affinity.prepare_keys(keys, settings["masks"]["center_keys"])
        return [baselines.lost(keys, grid, patches=own["lost_patches"])]

    record = cli.record(options, "masks", baseline=options.baseline)
    write_masks(options.images, options.features, options.output, find, record)
    return 0


if __name__ == "__main__":
    cli.run(main)
