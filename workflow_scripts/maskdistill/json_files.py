"""Reading JSON files, with errors that say what to do."""

import json
import os
from typing import Any

from workflow_scripts.maskdistill.errors import InputError


def read_json(path: str | os.PathLike, *, remedy: str) -> Any:
    """The content of a JSON file (UTF-8).

    Args:
        path: of the file.
        remedy: what to do where it is missing or damaged, for the message.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); {remedy}") from error
