"""Describe any output of any stage: what it is, how it was made, what it contains.

PATH is a file, a folder, or a quoted pattern. Shards, label maps, COCO files, models, metrics, loss
histories and logs can be described. For a folder with many stages an overview is printed.

examples:
  python -m workflow_scripts.inspect_files results/demo
  python -m workflow_scripts.inspect_files results/demo/train/masks
  python -m workflow_scripts.inspect_files results/demo/seed-0/mask_rcnn/model.pt --check
  python -m workflow_scripts.inspect_files results/demo --image 000123.jpg --output 000123.png
  python -m workflow_scripts.inspect_files results/demo \\
      --sql "SELECT cluster, count(*), avg(score) FROM candidates GROUP BY cluster ORDER BY cluster"
"""

import argparse
import sys
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.inspection import any_file, image_sheet, terminal
from workflow_scripts.maskdistill.repository import REPOSITORY

# The config of the dataset of results/NAME is looked for in these folders, in this order.
CONFIGS = (Path("config/datasets"), REPOSITORY / "config" / "datasets")


def main(argv: list[str] | None = None) -> int:
    """Print descriptions; exit code 0, or 1 if a file is damaged or not the workflow's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="file, folder, or quoted pattern with * or **"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="also read every byte, and decode every mask and label map",
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=any_file.SAMPLE,
        metavar="N",
        help="number of label maps that are decoded for statistics, evenly spread over the file; 0 "
        "for all (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        metavar="ID",
        help="draw the results of all stages for one image, given by its id or file name; PATH is "
        "the dataset's folder under results, or anything in it",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PNG",
        help="file that --image writes (default: IMAGE_ID.png)",
    )
    parser.add_argument(
        "--root",
        type=Path,
        help="folder of the dataset's images, for --image "
        "(default: the one in config/datasets/DATASET.yaml)",
    )
    parser.add_argument(
        "--seed", help="seed whose clusters and predictions --image shows (default: the first)"
    )
    parser.add_argument(
        "--sql",
        metavar="QUERY",
        help="query the shards in DuckDB's dialect; every stage is a table (images, masks, "
        "candidates, …) with the columns of its shards, a column `file` and, if there are "
        "several splits, seeds or rounds, columns `split`, `seed` and `round`; `SHOW TABLES` lists "
        "the tables",
    )
    options = parser.parse_args(argv)
    # Print an escape instead of failing if the terminal cannot show a character.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if options.image is not None:
        path = Path(options.paths[0])
        print(
            image_sheet.write(
                path, options.image, options.output, options.root, options.seed, CONFIGS
            )
        )
        return 0
    if options.sql is not None:
        # Imported only when needed, because DuckDB takes a second to import.
        from workflow_scripts.maskdistill.inspection import queries

        print("\n".join(queries.run(options.paths, options.sql)))
        return 0
    faults = []
    blocks = any_file.describe_paths(options.paths, sample=options.sample, check=options.check)
    for number, (lines, found) in enumerate(blocks):
        print("\n".join([""] * (number > 0) + lines))
        faults += found
    sys.stdout.flush()
    for fault in faults:
        print(f"error: {terminal.plain(fault)}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    cli.run(main)
