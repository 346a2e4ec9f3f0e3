"""Export the images of a split, with label maps and confident objects, for another tool."""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data.ground_truth import (
    GroundTruth,
    has_ground_truth,
    require_labels,
)
from workflow_scripts.maskdistill.exports.content import Content, read_pictures
from workflow_scripts.maskdistill.exports.formats import WRITERS
from workflow_scripts.maskdistill.files import atomic, shards
from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS


def main(argv: list[str] | None = None) -> int:
    """Write the folder of one format; exit code 0."""
    parser = cli.Parser("export_dataset", __doc__)
    parser.add_argument("--format", choices=EXPORT_FORMATS, required=True, help="format to write")
    cli.add_root(parser)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    parser.add_argument("--split", required=True, help="split of the shards")
    parser.add_input("--images", nargs="+", required=True, help="manifest shards")
    parser.add_input("--confident", nargs="+", required=True, help="their confident objects")
    parser.add_input("--predictions", nargs="+", required=True, help="their final label maps")
    parser.add_input("--pseudo-labels", required=True, help="COCO file of the training images")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    cli.add_labels(parser)
    options = parser.parse_args(argv)
    settings = options.settings

    truth = None
    if EXPORT_FORMATS[options.format].ground_truth and has_ground_truth(settings["dataset"]):
        manifest = shards.read_table(options.images, ["image_id", "file_name"]).to_pylist()
        require_labels(options.labels, settings["dataset"], options.root, options.split, manifest)
        truth = GroundTruth(settings["dataset"], options.root, options.split)
    content = Content(
        dataset=options.dataset,
        root=options.root,
        split=options.split,
        names=settings["curation"]["names"],
        truth_names=truth.class_names if truth else None,
        pictures=lambda: read_pictures(
            options.images,
            options.confident,
            options.predictions,
            truth.semantic if truth else None,
        ),
        pseudo_labels=options.pseudo_labels,
        polygons=settings["exports"]["polygons"],
        polygon_tolerance=settings["exports"]["polygon_tolerance"],
    )
    record = cli.record(
        options,
        "exports",
        format=options.format,
        split=options.split,
        labels=options.labels,
    )
    with atomic.atomic_folder(options.output, record) as folder:
        WRITERS[options.format](content, folder)
    return 0


if __name__ == "__main__":
    cli.run(main)
