"""Predict label maps with a trained segmentation model and refine them by a CRF.

The model runs again, because its probabilities would need too much disk space.
"""

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.segmentation import crf, label_map_prediction
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.torch_tools.device import choose_device


@report_out_of_memory("lower runtime.batch_size, runtime.threads or images.max_pixels")
def main(argv: list[str] | None = None) -> int:
    """Write the refined label maps of one shard; exit code 0."""
    options = cli.segmentation_parser("refine_predictions", __doc__).parse_args(argv)
    settings = CRFSettings.read_part(options.settings["crf"])
    predicting = options.settings["predictions"]
    with crf.start_workers(options.workers, settings) as workers:
        predictor = label_map_prediction.load_predictor(
            options.model,
            choose_device(options.device),
            precision=predicting["precision"],
            longer_side=predicting["longer_side"],
            tile=predicting["tile"],
        )
        rows = shards.read_usable(options.images)
        predictions = predictor.predict(
            rows,
            options.root,
            batch_size=options.batch_size,
            workers=options.workers,
            features=options.features,
        )
        label_map_prediction.write_predictions(
            options.output,
            rows,
            workers.refine(
                crf.Item(
                    found.row["image_id"],
                    found.probabilities(settings.longer_side),
                    found.image,
                    found.size,
                )
                for found in predictions
            ),
            clusters=predictor.clusters,
            metadata=cli.record(options, "predictions"),
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
