import pytest
import yaml

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings import downloads


@pytest.fixture(scope="module")
def shipped():
    return downloads.read_catalogue(REPOSITORY / "resources" / "downloads.yaml")


def test_the_shipped_catalogue(shipped):
    for path in shipped["files"]:
        assert path.startswith("data/")
    names = [
        downloads.archive_name(archive)
        for source in shipped["datasets"].values()
        for archive in source["archives"]
    ]
    assert len(set(names)) == len(names)  # they share a folder
    assert all("/" not in name and "." in name for name in names)


def test_the_numbers_of_images_add_up(shipped):
    images = shipped["datasets"]["voc2012"]["images"]
    assert images["train"] + images["val"] == images["trainval"]


def test_an_unknown_dataset(shipped):
    with pytest.raises(
        InputError, match=r"no 'voc2011' in resources/downloads\.yaml; choose from coco"
    ):
        downloads.dataset_source("voc2011", shipped)


def test_a_typo_is_named(shipped, tmp_path):
    changed = {**shipped, "files": {"data/a": {"url": "https://a", "sha265": "0" * 64}}}
    (tmp_path / "downloads.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(InputError, match=r"unknown key .*sha265', did you mean 'sha256'"):
        downloads.read_catalogue(tmp_path / "downloads.yaml")
