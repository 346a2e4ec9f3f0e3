"""Predict the candidate masks of one shard of images with a trained Mask R-CNN."""

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.mask_rcnn.candidates import candidate_rows
from workflow_scripts.maskdistill.mask_rcnn.engines import load_predictor
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.torch_tools.device import choose_device


@report_out_of_memory("lower runtime.batch_size or candidates.shorter_side")
def main(argv: list[str] | None = None) -> int:
    """Write the candidates of one shard; exit code 0."""
    options = cli.prediction_parser("predict_candidates", __doc__).parse_args(argv)

    settings = CandidateSettings.read(options.settings["candidates"])
    predictor = load_predictor(
        options.model, settings=settings, device=choose_device(options.device)
    )
    metadata = cli.record(options, "candidates")
    rows = candidate_rows(
        options.images,
        options.root,
        predictor,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    with shards.shard_writer(options.output, "candidates", metadata) as writer:
        for row in rows:
            writer.write(row)
    return 0


if __name__ == "__main__":
    cli.run(main)
