"""Text files that users write or other tools export."""

import os
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a file in UTF-8, without line breaks; a byte order mark is left out.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is not in UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not in UTF-8 (byte {error.start}); save it as UTF-8") from None
