"""Train DeepLab-v3 on label maps.

Checkpoints are kept in a folder of --work-dir that is named by a fingerprint of settings and label
maps. A training that was killed continues from its last checkpoint when the same command is run
again. Under torchrun it uses several GPUs.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.segmentation import learning
from workflow_scripts.maskdistill.settings.checks import unreached_falls, untrained_warning
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.device import choose_device
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles


@report_out_of_memory(
    "the last checkpoint is kept; continue from it with more GPUs (runtime.gpus), or lower "
    "segmentation.batch_size or segmentation.crop_size, which starts a new training"
)
def main(argv: list[str] | None = None) -> int:
    """Write the model and its loss history; exit code 0."""
    parser = cli.training_parser("train_segmentation", __doc__)
    parser.add_input("--label-maps", nargs="+", required=True, help="shards of label maps")
    options = parser.parse_args(argv)
    settings = SegmentationSettings.read(options.settings["segmentation"])
    if settings.weights is None:
        print(untrained_warning("segmentation"))
    if warning := unreached_falls(settings):
        print(warning)
    learning.train(
        options.label_maps,
        options.root,
        clusters=options.settings["clustering"]["clusters"],
        settings=settings,
        seed=options.seed,
        files=TrainingFiles(
            options.work_dir,
            options.model,
            options.history,
            cli.record(options, "segmentation", files=[settings.weights], seed=options.seed),
        ),
        device=choose_device(options.device),
        workers=distributed.share_of(options.workers),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
