"""CSV files, with the record of their making in a file next to them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import atomic_path


def write_csv(path: Path, rows: Iterable[Mapping], columns: Sequence[str], record: Mapping) -> None:
    """Write a table and its record, see `provenance`; a cell is empty where a value is None.

    Args:
        rows: column → value; columns that are not listed are left out.
    """
    import pandas as pd  # takes half a second, which programs without a table need not wait for

    table = pd.DataFrame(list(rows), columns=columns)
    with atomic_path(path) as temporary:
        # Lines end as RFC 4180 and the csv module of Python have it.
        table.to_csv(temporary, index=False, lineterminator="\r\n")
    provenance.write_beside(path, record)
