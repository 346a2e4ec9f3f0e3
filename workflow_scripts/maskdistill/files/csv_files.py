"""CSV files, with their provenance record in a file next to them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import atomic_path


def write_csv(path: Path, rows: Iterable[Mapping], columns: Sequence[str], record: Mapping) -> None:
    """Write a table and its provenance record; None becomes an empty cell.

    Args:
        rows: column → value; values of columns not in `columns` are left out.
    """
    import pandas as pd  # takes half a second, so it is imported only when needed

    table = pd.DataFrame(list(rows), columns=columns)
    with atomic_path(path) as temporary:
        # Line ends as in RFC 4180 and in Python's csv module.
        table.to_csv(temporary, index=False, lineterminator="\r\n")
    provenance.write_record(path, record)
