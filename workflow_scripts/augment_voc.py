"""Make the augmented training set of PASCAL VOC 2012 from copies of VOC and SBD.

Neither copy is changed. Set `dataset.splits.train` to the absolute path of the resulting list,
`ImageSets/Segmentation/train_aug.txt` in --output. A dataset that the workflow downloads already
has this list.
"""

import argparse
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import voc_augmentation


def main(argv: list[str] | None = None) -> int:
    """Write the list of images and their label maps; exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voc", type=Path, required=True, help="VOC2012, with ImageSets/")
    parser.add_argument(
        "--sbd", type=Path, required=True, help="SBD's folder `dataset`, with train.txt and cls/"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(argv)
    count = voc_augmentation.write_augmentation(options.voc, options.sbd, options.output)
    print(f"{count} images in {options.output / 'ImageSets/Segmentation/train_aug.txt'}")
    return 0


if __name__ == "__main__":
    cli.run(main)
