"""Export the evaluated images, with label maps and confident objects, for another tool."""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data.ground_truth import (
    GroundTruth,
    has_ground_truth,
    require_labels,
)
from workflow_scripts.maskdistill.exports.content import Content, read_pictures
from workflow_scripts.maskdistill.exports.formats import FORMATS
from workflow_scripts.maskdistill.files import atomic, shards


def main(argv: list[str] | None = None) -> int:
    """Write the folder of one format; exit code 0."""
    parser = cli.Parser("export_dataset", __doc__)
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the tool")
    cli.add_root(parser)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    parser.add_argument("--split", required=True, help="split that the shards are of")
    parser.add_input("--images", nargs="+", required=True, help="manifest shards")
    parser.add_input("--confident", nargs="+", required=True, help="their objects")
    parser.add_input("--predictions", nargs="+", required=True, help="their final label maps")
    parser.add_input("--pseudo-labels", required=True, help="of the training images, COCO file")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    cli.add_labels(parser)
    arguments = parser.parse_args(argv)
    settings = arguments.settings

    truth = None
    if arguments.format == "fiftyone" and has_ground_truth(settings["dataset"]):
        manifest = shards.read_table(arguments.images, ["image_id", "file_name"]).to_pylist()
        require_labels(
            arguments.labels, settings["dataset"], arguments.root, arguments.split, manifest
        )
        truth = GroundTruth(settings["dataset"], arguments.root, arguments.split)
    content = Content(
        dataset=arguments.dataset,
        root=arguments.root,
        split=arguments.split,
        names=settings["curation"]["names"],
        truth_names=truth.class_names if truth else None,
        pictures=lambda: read_pictures(
            arguments.images,
            arguments.confident,
            arguments.predictions,
            truth.semantic if truth else None,
        ),
        pseudo_labels=arguments.pseudo_labels,
        polygons=settings["exports"]["polygons"],
        polygon_tolerance=settings["exports"]["polygon_tolerance"],
    )
    record = cli.record(
        arguments,
        "exports",
        format=arguments.format,
        split=arguments.split,
        labels=arguments.labels,
    )
    with atomic.atomic_folder(arguments.output, record) as folder:
        FORMATS[arguments.format](content, folder)
    return 0


if __name__ == "__main__":
    cli.run(main)
