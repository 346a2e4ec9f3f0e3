"""Train a linear decoder on a frozen vision transformer with label maps, without need of a GPU.

The transformer's tokens are those in --features (`features.tokens`), so that only the decoder is
trained. Checkpoints are kept under --work-dir; a training that was killed continues from its last
checkpoint when the same command is run again.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.segmentation import token_training
from workflow_scripts.maskdistill.settings.checks import unreached_falls
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.device import choose_device
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles


@report_out_of_memory("lower segmentation.batch_size, which starts a new training")
def main(argv: list[str] | None = None) -> int:
    """Write the model and its loss history; exit code 0."""
    parser = cli.training_parser("train_vit_head", __doc__)
    parser.add_input("--label-maps", nargs="+", required=True, help="shards of label maps")
    parser.add_input(
        "--features", nargs="+", required=True, help="shards of features with the images' tokens"
    )
    options = parser.parse_args(argv)
    features = FeatureSettings.read_part(options.settings["features"])
    settings = SegmentationSettings.read_part(options.settings["segmentation"])
    if warning := unreached_falls(settings):
        print(warning)
    token_training.train(
        options.label_maps,
        options.features,
        options.root,
        clusters=options.settings["clustering"]["clusters"],
        settings=settings,
        features=features,
        seed=options.seed,
        files=TrainingFiles(
            options.work_dir,
            options.model,
            options.history,
            cli.record(options, "segmentation", files=[features.weights], seed=options.seed),
        ),
        device=choose_device(options.device),
        workers=options.workers,
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
