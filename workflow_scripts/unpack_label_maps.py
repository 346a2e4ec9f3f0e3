"""Unpack label maps from Parquet shards to PNG files, named like their images."""

import collections
import shutil
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill import shards
from workflow_scripts.maskdistill.atomic import full_disk_named
from workflow_scripts.maskdistill.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Write one PNG a row; exit code 0."""
    parser = cli.parser(__doc__)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="label maps")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)

    # `a.jpg` and `a.png` side by side would both be `a.png`; then they keep their whole names.
    names = collections.Counter(
        row["image"]["path"]
        for shard in arguments.shards
        for row in shards.read_rows(shard, ["image"])
    )
    # The folder is replaced as a whole, so that no file of an earlier run stays behind.
    temporary = arguments.output.with_name(f".{arguments.output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with full_disk_named(arguments.output):
            for shard in arguments.shards:
                for row in shards.read_rows(shard):
                    name = row["image"]["path"]
                    path = temporary / (name if names[name] == 1 else f"{row['file_name']}.png")
                    if not path.resolve().is_relative_to(temporary.resolve()):
                        raise InputError(f"{shard}: {name} lies outside of the folder")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(row["image"]["bytes"])
            temporary.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(arguments.output, ignore_errors=True)
            temporary.rename(arguments.output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
