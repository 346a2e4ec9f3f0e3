import json

import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import frozen
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

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


def test_the_file_is_json_for_people_to_look_at(folder):
    frozen.write(parse(), folder / "run.json")
    content = json.loads((folder / "run.json").read_text())
    assert content["configs"]["demo"]["clustering"]["clusters"] == 6
