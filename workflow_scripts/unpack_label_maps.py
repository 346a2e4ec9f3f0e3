"""Unpack label maps from Parquet shards to PNG files, named like their images.

The file `labelmap.txt` next to them has the name and the colour of every cluster, in the format of
the annotation tool CVAT.
"""

import collections
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import atomic, label_maps, shards


def main(argv: list[str] | None = None) -> int:
    """Write one PNG per row; exit code 0."""
    parser = cli.Parser("unpack_label_maps", __doc__)
    parser.add_input("--shards", nargs="+", required=True, help="label maps")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)

    # `a.jpg` and `a.png` would both become `a.png`; in this case the suffix stays in the name.
    names = collections.Counter(
        row["image"]["path"]
        for shard in options.shards
        for row in shards.read_rows(shard, ["image"])
    )
    legend = label_maps.legend(options.settings["curation"]["names"])
    record = cli.record(options, "png_label_maps")
    with atomic.atomic_folder(options.output, record) as folder:
        for shard in options.shards:
            for row in shards.read_rows(shard):
                name = row["image"]["path"]
                path = folder / (name if names[name] == 1 else f"{row['file_name']}.png")
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise InputError(
                        f"{shard}: {name} would be written outside of the folder {options.output}; "
                        "make the shard again"
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(row["image"]["bytes"])
        (folder / "labelmap.txt").write_text(legend, encoding="utf-8")
    return 0


if __name__ == "__main__":
    cli.run(main)
