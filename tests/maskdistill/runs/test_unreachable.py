"""What is missing and cannot be downloaded is known before a run."""

import pytest

from workflow_scripts.maskdistill.data import timm_weights
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import frozen, unreachable
from workflow_scripts.maskdistill.runs.run import Run
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

DEFAULT = read_yaml(REPOSITORY / "config" / "default.yaml")
HUB = "https://hub.example"
DINO = "data/weights/vit_small_patch16_224.dino.safetensors"
MOCO = "data/weights/moco_v2_800ep_pretrain.pth.tar"


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A function: the lines for a folder of images, with what the servers and the cache have."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    (tmp_path / "config" / "datasets" / "mine.yaml").write_text(
        "dataset: {root: photos, adapter: folder, splits: {train: .}}\n"
        f"mask_rcnn: {{weights: {MOCO}}}\n"
    )
    asked = []
    monkeypatch.setattr(timm_weights, "hub_address", lambda: HUB)

    def get(*, datasets=("mine",), reachable=(), cached=False):
        asked.clear()
        monkeypatch.setattr(
            unreachable, "reachable", lambda server: asked.append(server) or server in reachable
        )
        file = tmp_path / "cached" if cached else None
        monkeypatch.setattr(timm_weights, "cached", lambda backbone: file)
        config = merge(DEFAULT, {"datasets": list(datasets)})
        run = Run(frozen.parse(config, REPOSITORY, rules="abc"), REPOSITORY)
        return unreachable.unreachable_downloads(run, "data/archives")

    get.asked = asked
    return get


def test_lines_say_what_to_put_where(found):
    url = "https://dl.fbaipublicfiles.com"
    lines = found()
    assert lines.keys() == {DINO, MOCO}
    assert lines[DINO] == (
        f"{DINO} is missing, and {HUB} cannot be reached: put the file model.safetensors of "
        f"timm's vit_small_patch16_224.dino (from timm's hub) at {DINO}"
    )
    assert lines[MOCO].startswith(
        f"{MOCO} is missing, and {url} cannot be reached: put the file {url}/moco/"
    )
    assert sorted(found.asked) == [url, HUB]  # each once


def test_what_can_be_reached_or_is_cached_is_not_missed(found):
    assert found(reachable=[HUB]).keys() == {MOCO}
    assert found(cached=True).keys() == {MOCO}
    assert found(cached=True, reachable=["https://dl.fbaipublicfiles.com"]) == {}


def test_nothing_is_asked_when_everything_is_here(found, tmp_path):
    for path in (DINO, MOCO):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert found() == {}
    assert found.asked == []


def test_archives_of_datasets(found, tmp_path):
    lines = found(datasets=["voc2007"], reachable=["https://dl.fbaipublicfiles.com"])
    (marker,) = lines
    assert marker == "data/voc2007/downloaded.json"
    first, second = lines[marker].splitlines()
    assert first.startswith(
        "data/archives/VOCtrainval_06-Nov-2007.tar is missing, and https://thor"
    )
    (tmp_path / "data" / "archives").mkdir(parents=True)
    (tmp_path / "data" / "archives" / "VOCtrainval_06-Nov-2007.tar").touch()
    lines = found(datasets=["voc2007"], reachable=["https://dl.fbaipublicfiles.com"])
    assert lines[marker] == second
