"""Predict the label maps of one shard of images with a trained segmentation model."""

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.segmentation import label_map_prediction
from workflow_scripts.maskdistill.torch_tools.device import choose_device


@report_out_of_memory("lower runtime.batch_size or images.max_pixels")
def main(argv: list[str] | None = None) -> int:
    """Write the label maps of one shard; exit code 0."""
    options = cli.segmentation_parser("predict_segmentation", __doc__).parse_args(argv)
    settings = options.settings["predictions"]
    predictor = label_map_prediction.load_predictor(
        options.model,
        choose_device(options.device),
        precision=settings["precision"],
        longer_side=settings["longer_side"],
        tile=settings["tile"],
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
        ((found.row["image_id"], found.labels()) for found in predictions),
        clusters=predictor.clusters,
        metadata=cli.record(options, "predictions"),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
