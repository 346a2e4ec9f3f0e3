"""Rename the parameters of a published ResNet checkpoint as torchvision or Detectron2 names them.

Reads MoCo v1, v2 and v3, DINO (teacher or student) and torchvision checkpoints; parameters outside
of the ResNet (projector, queue, momentum encoder, classifier) are left out. The workflow itself
reads such checkpoints without conversion. For Detectron2, set MODEL.WEIGHTS to the converted file.
"""

import argparse
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.torch_tools.resnet import BLOCKS, build_resnet
from workflow_scripts.maskdistill.torch_tools.training_run import publish
from workflow_scripts.maskdistill.torch_tools.weights import detectron2_names


def main(argv: list[str] | None = None) -> int:
    """Write the converted checkpoint; exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint to read")
    parser.add_argument("--depth", type=int, choices=BLOCKS, default=50, help="depth of the ResNet")
    parser.add_argument(
        "--names", choices=("torchvision", "detectron2"), required=True, help="names to use"
    )
    parser.add_argument("--output", type=Path, required=True, help=".pth file to write")
    options = parser.parse_args(argv)

    state = build_resnet(options.depth, weights=options.weights).state_dict()
    if options.names == "torchvision":
        publish(state, options.output)
    else:
        # With matching_heuristics Detectron2 finds the module (backbone or heads) of each name.
        content = {"model": detectron2_names(state), "matching_heuristics": True}
        publish(content, options.output)
    return 0


if __name__ == "__main__":
    cli.run(main)
