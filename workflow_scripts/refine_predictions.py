"""Predict label maps with a trained DeepLab-v3 and refine them by a CRF (rule refine_predictions).

The model runs again: its probabilities would take too much room on disk.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill import crf, shards
from workflow_scripts.maskdistill.device import choose_device
from workflow_scripts.maskdistill.segmentation import prediction


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`."""
    arguments = cli.parser(__doc__)
    arguments.add_argument("--images", type=Path, required=True, help="manifest shard")
    cli.add_root(arguments)
    arguments.add_argument("--model", type=Path, required=True, help="trained segmentation model")
    arguments.add_argument("--output", type=Path, required=True, help="predictions, Parquet")
    cli.add_runtime(arguments)
    options = arguments.parse_args(argv)
    settings = crf.read_settings(options.settings["crf"])
    with crf.start_workers(options.workers, settings) as workers:
        predictor = prediction.load_predictor(options.model, choose_device(options.device))
        rows = prediction.listed_images(options.images)
        predictions = predictor.predict(
            rows, options.root, batch_size=options.batch_size, workers=options.workers
        )
        prediction.write_predictions(
            options.output,
            rows,
            workers.refine(
                (found.row["image_id"], found.probabilities(), found.image) for found in predictions
            ),
            clusters=predictor.clusters,
            metadata=shards.provenance(
                "predictions", options.settings, model=shards.file_digest(options.model)
            ),
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
