"""SQL queries over the Parquet files of a folder of results."""

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np

from workflow_scripts.maskdistill.data.datasets import SPLITS
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.inspection.any_file import expand
from workflow_scripts.maskdistill.inspection.image_record import APPLIED

ROWS_SHOWN = 1000
# Columns whose values are read from the path of a file: pattern of the value, and SQL type.
PATH_COLUMNS = {
    "split": (rf".*/({'|'.join(SPLITS)}|{APPLIED}/[^/]+)/", "VARCHAR"),
    "seed": (r".*/seed-(\d+)/", "INTEGER"),
    "round": (r".*/round-(\d+)/", "INTEGER"),
}


def run(paths: Sequence[str], query: str) -> list[str]:
    """Run a query over the Parquet files below some paths and print its result as a table.

    The shards of each stage are a table that is named after their folder. Every other Parquet file
    is a table that is named after the file.

    Raises:
        InputError: there are no Parquet files, one is damaged, or the query is invalid.
    """
    tables: dict[str, list[Path]] = {}
    for group in (group for path in paths for group in expand(path)):
        if group[0].suffix == ".parquet":
            name = group[0].parent.name if group[0].stem.isdigit() else group[0].stem
            tables.setdefault(name, []).extend(group)
    if not tables:
        raise InputError("--sql: no Parquet files were found; give a folder of results, or shards")
    try:
        with duckdb.connect() as connection:
            connection.execute("SET autoinstall_known_extensions = false")
            for name, files in tables.items():
                connection.execute(_view(name, files))
            found = connection.execute(query)
            if found is None:
                raise InputError("--sql: an empty query; `SHOW TABLES` lists the tables")
            header = [column[0] for column in found.description or []]
            rows = found.fetchmany(ROWS_SHOWN + 1)
    except duckdb.Error as error:
        for path in (path for files in tables.values() for path in files):
            shards.count_rows(path)  # the error of a damaged file names it and the remedy
        raise InputError(f"--sql: {' '.join(str(error).split())}") from error
    cells = [[_cell(value) for value in row] for row in rows[:ROWS_SHOWN]]
    lines = terminal.table(header, cells, indent=0, width=80, grouped=False)
    if len(rows) > ROWS_SHOWN:
        lines.append(f"… more than {ROWS_SHOWN} rows; add LIMIT or aggregate")
    return lines


def _view(name: str, paths: Sequence[Path]) -> str:
    """The SQL statement that makes one table of several files."""
    columns = "".join(
        f", TRY_CAST(nullif(regexp_extract(filename, {_text(pattern)}, 1), '') AS {kind})"
        f" AS {column}"
        for column, (pattern, kind) in PATH_COLUMNS.items()
        if any(re.search(pattern, str(path)) for path in paths)
    )
    files = ", ".join(_text(str(path)) for path in paths)
    table = re.sub(r"\W", "_", name)
    return (
        f'CREATE VIEW "{table}" AS SELECT * EXCLUDE (filename){columns}, filename AS file'
        f" FROM read_parquet([{files}], filename = true, union_by_name = true)"
    )


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _cell(value: object) -> object:
    """A value, converted to text if it is neither text nor a number."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple | np.ndarray) and len(value) > 6:
        return f"{len(value)} numbers"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(item)}" for key, item in value.items())
    return value
