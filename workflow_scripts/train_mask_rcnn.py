"""Train Mask R-CNN on pseudo-labels.

A training that was killed continues from its last checkpoint when the same command is run again.
Under torchrun it uses several GPUs.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError, report_out_of_memory
from workflow_scripts.maskdistill.mask_rcnn import engines
from workflow_scripts.maskdistill.settings.checks import unreached_falls, untrained_warning
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.runtime import RuntimeSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.device import choose_device
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles


@report_out_of_memory(
    "the last checkpoint is kept; continue from it with more GPUs (runtime.gpus), or lower "
    "mask_rcnn.batch_size or mask_rcnn.train_sides, which starts a new training"
)
def main(argv: list[str] | None = None) -> int:
    """Write the model and its loss history; exit code 0."""
    parser = cli.training_parser("train_mask_rcnn", __doc__)
    parser.add_input("--pseudo-labels", required=True, help="COCO dataset file to train on")
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=RuntimeSettings().checkpoint_every,
        help="steps between two checkpoints",
    )
    options = parser.parse_args(argv)
    if options.checkpoint_every < 1:
        raise InputError(f"--checkpoint-every: {options.checkpoint_every} is less than 1 step")

    settings = MaskRCNNSettings.read(options.settings["mask_rcnn"])
    if settings.weights is None:
        print(untrained_warning("mask_rcnn"))
    if warning := unreached_falls(settings):
        print(warning)
    engines.engine(settings.engine).fit(
        options.pseudo_labels,
        options.root,
        settings=settings,
        seed=options.seed,
        files=TrainingFiles(
            options.work_dir,
            options.model,
            options.history,
            cli.record(options, "mask_rcnn", files=[settings.weights], seed=options.seed),
        ),
        runtime=engines.Runtime(
            device=choose_device(options.device),
            workers=distributed.share_of(options.workers),
            checkpoint_every=options.checkpoint_every,
        ),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
