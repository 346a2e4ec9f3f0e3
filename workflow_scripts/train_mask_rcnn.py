"""Train Mask R-CNN on pseudo-masks.

A training that was killed continues from its last checkpoint when the same command is run again.
Under torchrun it uses several GPUs.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError, report_out_of_memory
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.runtime import RuntimeSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.device import choose_device


@report_out_of_memory(
    "the last checkpoint is kept, and more GPUs (runtime.gpus) continue from it; otherwise lower "
    "mask_rcnn.batch_size or mask_rcnn.train_sides, which starts a new training"
)
def main(argv: list[str] | None = None) -> int:
    """Write the model and its loss history; exit code 0."""
    parser = cli.Parser("train_mask_rcnn", __doc__)
    parser.add_input("--pseudo-labels", required=True, help="COCO dataset file to train on")
    cli.add_root(parser)
    parser.add_argument(
        "--work-dir", type=Path, required=True, help="folder of checkpoints, kept between runs"
    )
    parser.add_argument("--model", type=Path, required=True, help="model file to write")
    parser.add_argument("--history", type=Path, required=True, help="CSV of losses to write")
    parser.add_argument(
        "--seed", type=int, required=True, help="seed of order, augmentation, weights"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=RuntimeSettings().checkpoint_every,
        help="steps between two checkpoints",
    )
    cli.add_runtime(parser, batch_size=False)
    options = parser.parse_args(argv)
    if options.checkpoint_every < 1:
        raise InputError(f"--checkpoint-every: {options.checkpoint_every} is less than 1 step")

    settings = MaskRCNNSettings.read(options.settings["mask_rcnn"])
    engines.engine(settings.engine).fit(
        options.pseudo_labels,
        options.root,
        settings=settings,
        seed=options.seed,
        work_dir=options.work_dir,
        model=options.model,
        history=options.history,
        record=cli.record(options, "mask_rcnn", files=[settings.weights], seed=options.seed),
        runtime=engines.Runtime(
            device=choose_device(options.device),
            workers=distributed.share_of(options.workers),
            checkpoint_every=options.checkpoint_every,
        ),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
