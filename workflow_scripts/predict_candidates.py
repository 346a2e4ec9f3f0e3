"""Predict the candidate masks of one shard of images with a trained Mask R-CNN.

The architecture is that of the model file.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.mask_rcnn.candidates import candidate_rows
from workflow_scripts.maskdistill.mask_rcnn.engines import load_predictor
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.torch_tools.device import choose_device


def main(argv: list[str] | None = None) -> int:
    """Run the rule predict_candidates."""
    arguments = cli.prediction_parser("predict_candidates", __doc__).parse_args(argv)

    settings = CandidateSettings.read(arguments.settings["candidates"])
    predictor = load_predictor(
        arguments.model, settings=settings, device=choose_device(arguments.device)
    )
    metadata = cli.record(arguments, "candidates")
    rows = candidate_rows(
        arguments.images,
        arguments.root,
        predictor,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
    )
    with shards.shard_writer(arguments.output, "candidates", metadata) as writer:
        for row in rows:
            writer.write(row)
    return 0


if __name__ == "__main__":
    cli.run(main)
