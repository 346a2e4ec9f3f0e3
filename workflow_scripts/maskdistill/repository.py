"""Where the repository lies, whose configs, schemas and resources the programs read."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
