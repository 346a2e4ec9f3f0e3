"""Write the results for new images: label maps, overlays, objects, a list of unusable images."""

import json
from collections.abc import Iterator
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.exports import coco
from workflow_scripts.maskdistill.exports.content import Picture, read_pictures, write_label_map
from workflow_scripts.maskdistill.files import atomic, images, label_maps, shards
from workflow_scripts.maskdistill.files.csv_files import write_csv
from workflow_scripts.maskdistill.pictures.overlays import write_overlay


def main(argv: list[str] | None = None) -> int:
    """Write all files; exit code 0."""
    parser = cli.Parser("write_applied", __doc__)
    cli.add_root(parser)
    parser.add_input("--images", nargs="+", required=True, help="manifest shards")
    parser.add_input("--confident", nargs="+", required=True, help="their confident objects")
    parser.add_input("--predictions", nargs="+", required=True, help="their final label maps")
    parser.add_argument("--label-maps", type=Path, required=True, help="folder of PNGs to write")
    parser.add_argument("--overlays", type=Path, required=True, help="folder of JPEGs to write")
    parser.add_argument(
        "--objects", type=Path, required=True, help="COCO dataset file with scores to write"
    )
    parser.add_argument(
        "--rejected", type=Path, required=True, help="CSV of unusable images to write"
    )
    options = parser.parse_args(argv)
    names = options.settings["curation"]["names"]

    record = cli.record(options, "applied")
    with (
        atomic.atomic_folder(options.label_maps, record) as maps,
        atomic.atomic_folder(options.overlays, record) as overlays,
    ):

        def pictures() -> Iterator[Picture]:
            for picture in read_pictures(options.images, options.confident, options.predictions):
                write_label_map(picture.labels, maps / picture.with_suffix(".png"))
                image = images.read_listed(
                    options.root / picture.file_name, (picture.height, picture.width)
                )
                write_overlay(image, picture.labels, overlays / picture.with_suffix(".jpg"))
                yield picture

        objects = coco.instances(pictures(), names)
        objects["info"]["provenance"] = record
        (maps / "labelmap.txt").write_text(label_maps.legend(names), encoding="utf-8")
    atomic.write_text(options.objects, json.dumps(objects))
    rejected = (
        row
        for manifest in options.images
        for row in shards.read_rows(manifest)
        if row["status"] != shards.OK
    )
    write_csv(options.rejected, rejected, ["file_name", "status"], record)
    return 0


if __name__ == "__main__":
    cli.run(main)
