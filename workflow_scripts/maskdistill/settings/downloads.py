"""What can be downloaded, as resources/downloads.yaml lists it."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.config import read_yaml, validate


def read_catalogue(path: Path, schema: Path) -> dict:
    """The files and datasets that can be downloaded, by path and by name.

    Raises:
        InputError: missing, or not as the schema says; names the key.
    """
    content = read_yaml(path)
    validate(content, schema, source=str(path))
    return content


def dataset_source(name: str, catalogue: dict) -> dict:
    """What `dataset.download` stands for: archives, how to unpack them, numbers of images.

    Raises:
        InputError: there is no such dataset.
    """
    if name not in catalogue["datasets"]:
        raise InputError(
            f"dataset.download: there is no {name!r} in resources/downloads.yaml; it has "
            + ", ".join(sorted(catalogue["datasets"]))
        )
    return catalogue["datasets"][name]


def archive_name(source: dict) -> str:
    """The file name of an archive: the end of its URL."""
    return PurePosixPath(urlsplit(source["url"]).path).name
