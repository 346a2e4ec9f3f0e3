"""Train a linear classifier with labels on the frozen features of the segmentation model.

Checkpoints are kept in a folder of --work-dir that is named by a fingerprint of settings, model and
labels. A training that was killed continues from its last checkpoint when the same command is run
again. Under torchrun it uses several GPUs.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.segmentation import linear_probe
from workflow_scripts.maskdistill.settings.checks import unreached_falls
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.device import choose_device
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles


@report_out_of_memory(
    "the last checkpoint is kept; continue from it with more GPUs (runtime.gpus), or lower "
    "evaluation.linear_probe.batch_size or segmentation.crop_size, which starts a new training"
)
def main(argv: list[str] | None = None) -> int:
    """Write the model and its loss history; exit code 0."""
    parser = cli.training_parser("train_linear_probe", __doc__)
    parser.add_input(
        "--ground-truth", nargs="+", required=True, help="shards of write_ground_truth"
    )
    parser.add_argument("--split", required=True, help="split of these labels")
    parser.add_input("--segmentation-model", required=True, help="model whose features are probed")
    options = parser.parse_args(argv)
    settings = options.settings
    probe = LinearProbeSettings.read_part(settings["evaluation"]["linear_probe"])
    if warning := unreached_falls(probe):
        print(warning)
    truth = GroundTruth(settings["dataset"], options.root, options.split)
    linear_probe.train(
        options.ground_truth,
        options.root,
        classes=len(truth.class_names),
        segmentation_model=options.segmentation_model,
        settings=probe,
        views={name: settings["segmentation"][name] for name in linear_probe.VIEWS},
        precision=settings["predictions"]["precision"],
        seed=options.seed,
        files=TrainingFiles(
            options.work_dir,
            options.model,
            options.history,
            cli.record(options, "linear_probe", seed=options.seed),
        ),
        device=choose_device(options.device),
        workers=distributed.share_of(options.workers),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
