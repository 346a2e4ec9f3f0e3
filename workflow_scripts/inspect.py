"""Look into any output of any stage: what it is, how it was made, what it holds.

PATH is a file, a folder, or a quoted pattern: shards, label maps, COCO files, models, metrics, loss
histories, logs. Of a folder with many stages there is an overview.

examples:
  python -m workflow_scripts.inspect results/demo
  python -m workflow_scripts.inspect results/demo/train/masks
  python -m workflow_scripts.inspect results/demo/seed-0/mask_rcnn/model.pt --check
  python -m workflow_scripts.inspect results/demo --image 000123.jpg --output 000123.png
  python -m workflow_scripts.inspect results/demo \\
      --sql "SELECT cluster, count(*), avg(score) FROM candidates GROUP BY cluster ORDER BY cluster"
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from workflow_scripts import cli
from workflow_scripts.maskdistill.data.datasets import SPLITS
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import images, shards
from workflow_scripts.maskdistill.files.atomic import atomic_path
from workflow_scripts.maskdistill.inspection import any_file, image_record, image_sheet, terminal
from workflow_scripts.maskdistill.repository import REPOSITORY

# Where the dataset of results/NAME is described: in the working directory, or in the repository.
CONFIGS = (Path("config/datasets"), REPOSITORY / "config" / "datasets")
ROWS_SHOWN = 1000  # of a query
PATH_COLUMNS = {
    "split": (rf".*/({'|'.join(SPLITS)}|{image_record.APPLIED}/[^/]+)/", "VARCHAR"),
    "seed": (r".*/seed-(\d+)/", "INTEGER"),
    "round": (r".*/round-(\d+)/", "INTEGER"),
}


def main(argv: list[str] | None = None) -> int:
    """Print what was found; exit code 0, or 1 if anything is damaged or foreign."""
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
        help="label maps decoded for statistics, evenly spread; 0 for all (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        metavar="ID",
        help="draw one image with all that is known of it; its id or file name. PATH is the "
        "dataset's folder under results, or anything in it",
    )
    parser.add_argument(
        "--output", type=Path, metavar="PNG", help="where --image draws (default: IMAGE_ID.png)"
    )
    parser.add_argument(
        "--root",
        type=Path,
        help="folder of the dataset's images, for --image "
        "(default: what config/datasets/DATASET.yaml says)",
    )
    parser.add_argument(
        "--seed", help="whose clusters and predictions --image shows (default: the first)"
    )
    parser.add_argument(
        "--sql",
        metavar="QUERY",
        help="query the shards in DuckDB's dialect; every stage is a table (images, masks, "
        "candidates, …) with the columns file and, where there are several, split, seed and "
        "round besides its own; "
        "`SHOW TABLES` lists them",
    )
    arguments = parser.parse_args(argv)
    # A terminal that cannot show a character gets an escape, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if arguments.image is not None:
        return _draw(arguments)
    if arguments.sql is not None:
        groups = [group for path in arguments.paths for group in any_file.expand(path)]
        print("\n".join(query(groups, arguments.sql)))
        return 0
    return _describe(arguments)


def _describe(arguments: argparse.Namespace) -> int:
    faults = []
    for i, path in enumerate(arguments.paths):
        try:
            groups = any_file.expand(path)
        except InputError as error:
            faults.append(str(error))
            continue
        if i:
            print()
        stages = {group[0].parent for group in groups}
        if len(groups) > 2 and len(stages) > 1:
            lines, found = any_file.overview(groups)
            print("\n".join([*lines, "", "  Name one of these paths for what it holds."]))
            faults += found
            continue
        for j, group in enumerate(groups):
            if j:
                print()
            try:
                lines = any_file.describe(group, sample=arguments.sample, check=arguments.check)
                print("\n".join(lines))
            except InputError as error:
                faults.append(str(error))
    sys.stdout.flush()
    for fault in faults:
        print(f"error: {terminal.plain(fault)}", file=sys.stderr)
    return 1 if faults else 0


def _draw(arguments: argparse.Namespace) -> int:
    path = Path(arguments.paths[0])
    tree = image_record.results_tree(path)
    split, row = image_record.find_image(tree, arguments.image, path)
    if row["status"] != shards.OK:
        raise InputError(
            f"{row['file_name']}: left out of all stages, so there is nothing to draw: "
            f"{row['status']}"
        )
    root = arguments.root or image_record.dataset_root(tree, split, CONFIGS)
    image = images.read_listed(root / row["file_name"], (row["height"], row["width"]))
    record = image_record.collect(tree, split, row, root, arguments.seed)
    output = arguments.output or Path(f"{row['image_id']}.png")
    sheet = image_sheet.draw(record, image, _facts(record))
    with atomic_path(output) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    print(output)
    return 0


def _facts(record: image_record.ImageRecord) -> list[str]:
    row = record.image
    lines = [
        terminal.plain(row["file_name"]),
        f"id {row['image_id']}, split {record.split}, shard {row['shard']:04d}, "
        f"{row['height']} x {row['width']} px",
    ]
    if record.features is not None and record.features["status"] != shards.OK:
        lines.append(f"features: {terminal.plain(record.features['status'])}")
    for mask in record.masks:
        if mask["status"] != shards.OK:
            lines.append(f"mask {mask['mask_id']}: {terminal.plain(mask['status'])}")
    return lines


def query(groups: Sequence[Sequence[Path]], text: str) -> list[str]:
    """Run a query over the shards, every stage a table.

    Raises:
        InputError: there are no shards, or the query is at fault.
    """
    # A second to import, for this option only.
    import duckdb

    tables: dict[str, list[Path]] = {}
    for group in groups:
        if group[0].suffix == ".parquet":
            name = group[0].parent.name if group[0].stem.isdigit() else group[0].stem
            tables.setdefault(name, []).extend(group)
    if not tables:
        raise InputError("--sql: there are no Parquet files; name a folder or shards")
    connection = duckdb.connect()
    try:
        connection.execute("SET autoinstall_known_extensions = false")
        for name, paths in tables.items():
            any_file = ", ".join(_sql_text(str(path)) for path in paths)
            # What only the path says becomes a column, where any path says it.
            columns = "".join(
                f", TRY_CAST(nullif(regexp_extract(filename, {_sql_text(pattern)}, 1), '')"
                f" AS {kind}) AS {column}"
                for column, (pattern, kind) in PATH_COLUMNS.items()
                if any(re.search(pattern, str(path)) for path in paths)
            )
            connection.execute(
                f"CREATE VIEW {_sql_name(name)} AS"
                f" SELECT * EXCLUDE (filename){columns}, filename AS file"
                f" FROM read_parquet([{any_file}], filename = true, union_by_name = true)"
            )
        found = connection.execute(text)
        if found is None:
            raise InputError("--sql: an empty query; `SHOW TABLES` lists what there is to query")
        header = [column[0] for column in found.description or []]
        rows = found.fetchmany(ROWS_SHOWN + 1)
    except duckdb.Error as error:
        for paths in tables.values():
            for path in paths:
                shards.count_rows(path)  # names a damaged one, and what to do
        raise InputError(f"--sql: {' '.join(str(error).split())}") from error
    finally:
        connection.close()
    cells = [[_cell(value) for value in row] for row in rows[:ROWS_SHOWN]]
    lines = terminal.table(header, cells, indent=0, width=80, grouped=False)
    if len(rows) > ROWS_SHOWN:
        lines.append(f"… more than {ROWS_SHOWN} rows; add LIMIT or aggregate")
    return lines


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sql_name(name: str) -> str:
    return '"' + re.sub(r"\W", "_", name) + '"'


def _cell(value: object) -> object:
    """Text of what is neither text nor a number."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple | np.ndarray) and len(value) > 6:
        return f"{len(value)} numbers"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(item)}" for key, item in value.items())
    return value


if __name__ == "__main__":
    cli.run(main)
