"""The downloadable files and datasets, listed in resources/downloads.yaml."""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.checks import validate
from workflow_scripts.maskdistill.settings.layers import read_yaml
from workflow_scripts.maskdistill.settings.section import Count, Section, listed, matching


class _Download(Section):
    """A file on the web. Checksums are hexadecimal and may be only the first digits."""

    url: matching("https?://.*", "An address begins with http:// or https://.")
    bytes: Count = None
    sha256: matching("[0-9a-f]{8,64}", "8 to 64 hexadecimal digits.") = None
    md5: matching("[0-9a-f]{8,32}", "8 to 32 hexadecimal digits.") = None


class SingleFile(_Download):
    """A file that is used as it is."""

    # An estimate that plan.py shows if no size is published; the download is not checked by it.
    expected_bytes: Count = None


class Archive(_Download):
    """An archive that belongs to a dataset."""

    strip: str = None  # folder in the archive whose content is unpacked
    keep: listed(str) = None  # files and folders below `strip` that are unpacked; None for all
    into: str = None  # folder of the dataset to unpack into; None for its root


class DownloadedDataset(Section):
    """A dataset that is unpacked to data/NAME."""

    archives: listed(Archive, least=1)
    augment: str = None  # folder of SBD in the dataset, whose masks extend VOC's training set
    images: dict[str, Count]  # numbers of images by split or, for COCO, by annotation file


class Catalogue(Section):
    """The downloadable files by path, and datasets by name."""

    files: dict[str, SingleFile]
    datasets: dict[str, DownloadedDataset]


def read_catalogue(path: Path) -> dict:
    """Read the catalogue of files (by path) and datasets (by name).

    Raises:
        InputError: missing, or not a `Catalogue`; names the key.
    """
    content = read_yaml(path)
    validate(Catalogue, content, source=str(path))
    return content


def dataset_source(name: str, catalogue: dict) -> dict:
    """The catalogue's entry of a dataset: archives, how to unpack them, numbers of images.

    Raises:
        InputError: there is no such dataset.
    """
    if name not in catalogue["datasets"]:
        raise InputError(
            f"dataset.download: there is no {name!r} in resources/downloads.yaml; choose from "
            + ", ".join(sorted(catalogue["datasets"]))
        )
    return catalogue["datasets"][name]


def archive_name(source: dict) -> str:
    """The file name of an archive: the end of its URL."""
    return PurePosixPath(urlsplit(source["url"]).path).name
