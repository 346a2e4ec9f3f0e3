"""Train one of the demo's two networks, self-supervised, on generated video clips and on a CPU.

This program made resources/demo_backbone.safetensors (transformer) and
resources/demo_resnet.safetensors (resnet).
"""

import argparse
import csv
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from workflow_scripts import cli
from workflow_scripts.maskdistill.demo import pretraining
from workflow_scripts.maskdistill.demo.clips import draw_clips
from workflow_scripts.maskdistill.files.atomic import atomic_path

NETWORKS = {
    "transformer": (pretraining.TRANSFORMER, pretraining.pretrain_transformer),
    "resnet": (pretraining.RESNET, pretraining.pretrain_resnet),
}


def main(argv: list[str] | None = None) -> int:
    """Train one network and write its weights; exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network", choices=NETWORKS, required=True, help="which of the demo's two networks"
    )
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--curve", type=Path, help="CSV file for the losses")
    parser.add_argument("--clips", type=int, help="number of clips")
    parser.add_argument("--steps", type=int, help="number of training steps")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads that train, and processes that draw clips"
    )
    options = parser.parse_args(argv)

    torch.set_num_threads(options.threads)
    recipe, pretrain = NETWORKS[options.network]
    changed = {name: getattr(options, name) for name in ("clips", "steps")}
    recipe = recipe._replace(**{k: v for k, v in changed.items() if v is not None})
    clips = draw_clips(
        recipe.clips,
        seed=recipe.seed,
        workers=options.threads,
        describe=options.network == "resnet",
    )
    model, curve = pretrain(recipe, clips)
    # Half precision halves the file's size; the network computes with the weights in float32.
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    with atomic_path(options.output) as temporary:
        save_file(weights, temporary, metadata={"recipe": json.dumps(recipe._asdict())})
    if options.curve:
        with atomic_path(options.curve) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, curve[0])
            writer.writeheader()
            writer.writerows(curve)
    return 0


if __name__ == "__main__":
    cli.run(main)
