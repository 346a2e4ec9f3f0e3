"""Reading JSON files, with errors that say what to do; flattening nested objects."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ijson

from workflow_scripts.maskdistill.errors import InputError


def read_json(path: str | os.PathLike, *, remedy: str) -> Any:
    """The content of a JSON file (UTF-8, with or without a byte order mark).

    Args:
        remedy: what to do if the file is missing or damaged, for the error message.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); {remedy}") from error


def read_entries(path: str | os.PathLike, name: str, *, remedy: str) -> Iterator[Any]:
    """Stream the entries of one array of a JSON file (UTF-8), with bounded memory.

    Args:
        path: a file that holds an object.
        name: key of the array; if it is missing, nothing is yielded.
        remedy: see `read_json`.

    Raises:
        InputError: as `read_json`, possibly after some entries have been yielded.
    """
    try:
        with open(path, "rb") as file:
            yield from ijson.items(file, f"{name}.item", use_float=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not valid JSON ({reason}); {remedy}") from error


def leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of nested objects, such as settings, with their dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
