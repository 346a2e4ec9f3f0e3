import json
import os

import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import frozen
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

DEFAULT = read_yaml(REPOSITORY / "config" / "default.yaml")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("resources/demo_backbone.safetensors", "resources/demo_resnet.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def parse(**changes):
    return frozen.parse(merge(DEFAULT, changes), REPOSITORY, rules="abc")


def test_what_jobs_read_is_what_was_parsed(folder):
    (folder / "config/names").mkdir(parents=True)
    names = "seeds: {0: {clusters: {2: bird, 5: bird}}}"
    (folder / "config/names/demo.yaml").write_text(names)
    (folder / "new").mkdir()
    run = parse(apply="new", overrides={"masks": {"top_k": 0.3}})
    assert run.configs["demo"]["masks"]["top_k"] == 0.3
    assert run.names == {"demo": {0: {"assignments": None, "clusters": {2: "bird", 5: "bird"}}}}
    assert run.applied == {"applied/new": "new"}
    assert run.once("images of train", lambda: 7) == 7
    frozen.write(run, folder / "run.json")
    assert frozen.read(folder / "run.json", rules="abc") == run


def test_a_job_finds_what_the_main_process_has_found(folder):
    run = parse()
    run.once("images", lambda: "before")
    frozen.write(run, folder / "run.json")
    read = frozen.read(folder / "run.json")
    assert read.once("images", lambda: "after") == "before"
    assert read.once("labels", lambda: "after") == "after"


def test_other_rules_than_those_of_the_run_are_refused(folder):
    frozen.write(parse(), folder / "run.json")
    with pytest.raises(InputError, match="rules have changed since this run was started"):
        frozen.read(folder / "run.json", rules="def")


@pytest.mark.parametrize(
    ("path", "message"),
    [(None, "MASKDISTILL_RUN is missing"), ("gone.json", "no such file.*without --no-hooks")],
)
def test_a_job_without_its_run_says_what_to_do(folder, path, message):
    with pytest.raises(InputError, match=message):
        frozen.read(path, rules="abc")


def test_cautions_name_the_file(folder):
    (folder / "config/names").mkdir(parents=True)
    (folder / "config/names/demo.yaml").write_text("seeds: {7: {clusters: {1: bird}}}")
    (caution,) = frozen.cautions(parse())
    assert caution.startswith("config/names/demo.yaml: names of clusters of seed 7 are not used")


def test_training_from_random_numbers_is_a_caution(folder):
    assert frozen.cautions(parse()) == []
    untrained = {"weights": None, "frozen_stages": 0}
    # Generated scenes are easily learned.
    run = parse(overrides={"segmentation": untrained})
    assert frozen.cautions(run) == []
    run.configs["demo"]["dataset"]["generate"] = None
    (caution,) = frozen.cautions(run)
    assert caution.startswith(
        "demo: warning: segmentation.weights is null, so it starts from random"
    )


def test_a_decoder_on_other_tokens_than_those_of_the_clusters_is_a_caution(folder):
    run = parse()
    config = run.configs["demo"]
    assert config["embedding"]["backbone"] == "resnet18"
    config["segmentation"]["model"] = "vit_head"
    (caution,) = frozen.cautions(run)
    assert caution.startswith("demo: warning: clusters come from embedding.backbone, resnet18, but")
    config["embedding"]["backbone"] = config["features"]["backbone"]
    assert frozen.cautions(run) == []


def test_the_file_is_json_for_people_to_look_at(folder):
    frozen.write(parse(), folder / "run.json")
    content = json.loads((folder / "run.json").read_text())
    assert content["configs"]["demo"]["clustering"]["clusters"] == 6


def test_support_is_embedded_in_the_same_way():
    catalogue = read_yaml(REPOSITORY / "resources" / "downloads.yaml")

    def shipped(name):
        folders = [REPOSITORY / "config" / "datasets"]
        return dataset_config(name, DEFAULT, folders, downloadable=catalogue["files"])

    for name in ("voc2012", "voc2012_official", "coco20k", "coco20k_official"):
        own = shipped(name)
        (support,) = own["clustering"]["support"]
        frozen.check_support({name: own, support: shipped(support)}, REPOSITORY)
    mixed = {"voc2012": shipped("voc2012"), "voc2007": shipped("voc2007_official")}
    with pytest.raises(InputError, match="voc2007 has other settings of `features` or"):
        frozen.check_support(mixed, REPOSITORY)


def test_files_of_runs_that_ended_long_ago_are_removed(folder):
    month = 31 * 24 * 3600
    ended, living = folder / "2020-01-01T00-00-00-99999999.json", folder / f"a-{os.getpid()}.json"
    recent = folder / "2020-01-02T00-00-00-99999998.json"
    for path in (ended, living, recent):
        path.write_text("{}")
        if path != recent:
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - month))
    frozen.write(parse(), folder / "new-1.json")
    assert not ended.exists()
    assert living.exists()
    assert recent.exists()


def test_a_learning_rate_that_falls_after_the_training_is_a_caution(folder):
    short = {"mask_rcnn": {"iterations": 320}, "segmentation": {"epochs": 5}}
    first, second = frozen.cautions(parse(overrides=short))
    assert first == (
        "demo: warning: mask_rcnn.learning_rate_steps: the training ends before 320, 430, as "
        "mask_rcnn.iterations is 320, so the learning rate does not fall there; lower these "
        "values, or remove them"
    )
    assert second.startswith("demo: warning: segmentation.learning_rate_milestones: ")
    without = {"mask_rcnn": {"enabled": False, "iterations": 5}}
    assert frozen.cautions(parse(overrides=without)) == []
