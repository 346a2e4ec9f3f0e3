"""The location of the repository, whose configs, schemas and resources the programs read."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def find_file(path: str | os.PathLike) -> Path:
    """A file in the working directory, or else in this repository."""
    return Path(path) if Path(path).is_file() else REPOSITORY / path
