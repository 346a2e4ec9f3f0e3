import copy
import json

import pytest
import yaml

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings import changes, checks, layers, splits
from workflow_scripts.maskdistill.settings.whole_config import (
    WorkflowConfig,
    dataset_config,
)

FOLDER = REPOSITORY / "config"
DEFAULT = yaml.safe_load((FOLDER / "default.yaml").read_text())
SHIPPED = sorted(path.stem for path in (FOLDER / "datasets").glob("*.yaml"))
MINE = {"dataset": {"root": "photos", "adapter": "folder", "splits": {"train": "."}}}


@pytest.fixture
def dataset(tmp_path):
    """A function that gives the config of a dataset with these keys of its own."""

    def get(own, overrides=None):
        (tmp_path / "mine.yaml").write_text(own if isinstance(own, str) else yaml.safe_dump(own))
        whole = {**DEFAULT, "overrides": overrides or {}}
        return dataset_config("mine", whole, [tmp_path])

    return get


def shipped(name):
    """The config of a shipped dataset, as if all that can be downloaded were here."""
    catalogue = yaml.safe_load((FOLDER.parent / "resources" / "downloads.yaml").read_text())
    return dataset_config(name, DEFAULT, [FOLDER / "datasets"], downloadable=catalogue["files"])


def test_merge():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 4, "e": {"f": 1}}
    before = copy.deepcopy(base)
    merged = layers.merge(base, {"a": {"c": [3]}, "g": {"h": 5}}, {"a": {"b": 9}, "e": None})
    assert merged == {"a": {"b": 9, "c": [3]}, "d": 4, "e": None, "g": {"h": 5}}
    assert base == before
    merged["d"] = merged["a"]["c"] = 0
    assert base == before


def leaves(settings, path=()):
    """Path → value of nested settings."""
    if not isinstance(settings, dict) or not settings:
        return {path: settings}
    return {p: v for key, one in settings.items() for p, v in leaves(one, (*path, key)).items()}


def test_a_preset_goes_between_defaults_and_dataset(tmp_path):
    folder = tmp_path / "config" / "datasets"
    folder.mkdir(parents=True)
    (tmp_path / "config/presets").mkdir()

    def get(own, preset, overrides=None):
        (folder / "mine.yaml").write_text(yaml.safe_dump({**MINE, **own}))
        (tmp_path / "config/presets/own.yaml").write_text(yaml.safe_dump(preset))
        whole = {**DEFAULT, "overrides": overrides or {}}
        return dataset_config("mine", whole, [folder, FOLDER / "datasets"])

    preset = {"masks": {"top_k": 0.1, "per_image": 3}, "seeds": [4]}
    found = get({"preset": "own", "masks": {"top_k": 0.2}}, preset)
    assert found["masks"]["top_k"] == 0.2
    assert found["masks"]["per_image"] == 3
    assert found["seeds"] == [4]
    assert "preset" not in found
    # Only the values matter, wherever they come from.
    same = {"masks": {"top_k": 0.2, "per_image": 3}, "seeds": [4]}
    assert changes.canonical_json(found) == changes.canonical_json(get(same, preset))
    # It can be tried without an edit.
    assert get({}, preset, {"preset": "own"})["seeds"] == [4]
    assert get({"preset": "own"}, preset, {"seeds": [5]})["seeds"] == [5]
    # Presets of the repository are found too.
    (folder / "mine.yaml").write_text(yaml.safe_dump({**MINE, "preset": "standart"}))
    with pytest.raises(
        InputError, match=r"mine\.yaml: preset: unknown preset 'standart', did you mean 'standard'"
    ):
        dataset_config("mine", {**DEFAULT, "overrides": {}}, [folder, FOLDER / "datasets"])
    with pytest.raises(InputError, match=r"own\.yaml: dataset: a preset cannot have this key"):
        get({"preset": "own"}, {"dataset": {"root": "a"}})
    with pytest.raises(InputError, match=r"preset own\): unknown key 'masks\.topk'"):
        get({"preset": "own"}, {"masks": {"topk": 1}})


def test_a_dataset_that_extends_another_has_its_preset(tmp_path):
    folder = tmp_path / "config" / "datasets"
    folder.mkdir(parents=True)
    (tmp_path / "config/presets").mkdir()
    for name, value in (("one", 1), ("two", 2)):
        text = yaml.safe_dump({"masks": {"per_image": value}})
        (tmp_path / f"config/presets/{name}.yaml").write_text(text)
    (folder / "base.yaml").write_text(yaml.safe_dump({**MINE, "preset": "one"}))
    (folder / "same.yaml").write_text("extends: base")
    (folder / "other.yaml").write_text("{extends: base, preset: two}")
    found = {name: dataset_config(name, DEFAULT, [folder]) for name in ("same", "other")}
    assert found["same"]["masks"]["per_image"] == 1
    assert found["other"]["masks"]["per_image"] == 2


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "presets").glob("*.yaml")))
def test_shipped_presets_are_valid(tmp_path, name):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**MINE, "preset": name}))
    catalogue = yaml.safe_load((FOLDER.parent / "resources" / "downloads.yaml").read_text())
    folders = [tmp_path, FOLDER / "datasets"]
    found = dataset_config("mine", DEFAULT, folders, downloadable=catalogue["files"])
    preset = layers.read_preset(name, folders, tmp_path)
    assert leaves(preset).items() <= leaves(found).items()


def test_the_preset_of_the_paper_is_its_recipe():
    preset = leaves(layers.read_preset("paper", [FOLDER / "datasets"], FOLDER))
    recipe = leaves(shipped("voc2012"))
    assert len(preset) > 40
    assert {path: recipe[path] for path in preset} == preset


def test_defaults_then_the_dataset_then_overrides(dataset):
    own = {**MINE, "masks": {"top_k": 0.3, "per_image": 2}}
    result = dataset(own, {"masks": {"per_image": 3}})
    assert result["masks"] == {**DEFAULT["defaults"]["masks"], "top_k": 0.3, "per_image": 3}
    assert result["clustering"] == DEFAULT["defaults"]["clustering"]


def error_of(dataset, *args):
    with pytest.raises(InputError) as error:
        dataset(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (3, {"train": 3, "val": 3, "instances": 3}),
        ({"train": 8}, {"train": 8, "val": 8, "instances": 8}),
        ({"train": 8, "val": 1}, {"train": 8, "val": 1, "instances": 8}),
    ],
)
def test_shards_of_a_split(dataset, own, expected):
    found = dataset(layers.merge(MINE, {"shards": own}))
    assert {split: splits.split_shards(found, split) for split in expected} == expected


@pytest.mark.parametrize(
    ("own", "key", "nearest"),
    [
        ({"maskss": {}}, "maskss", "masks"),
        ({"masks": {"topk": 0.3}}, "masks.topk", "top_k"),
        ({"mask_rcnn": {"iteration": 3}}, "mask_rcnn.iteration", "iterations"),
        ({"segmentation": {"crop_sise": 3}}, "segmentation.crop_sise", "crop_size"),
        ({"dataset": {"adaptor": "voc"}}, "dataset.adaptor", "adapter"),
        ({"shards": {"train": 2, "vall": 1}}, "shards.vall", "val"),
    ],
)
def test_a_typo_names_the_key_and_the_nearest(dataset, own, key, nearest):
    message = error_of(dataset, layers.merge(MINE, own))
    assert "mine.yaml" in message
    assert f"unknown key {key!r}, did you mean {nearest!r}?" in message


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"masks": {"top_k": 1.5}}, "masks.top_k"),
        ({"clustering": {"clusters": 0}}, "clustering.clusters"),
        ({"clustering": {"metric": "manhattan"}}, "clustering.metric"),
        ({"seeds": []}, "seeds"),
        ({"shards": "many"}, "shards"),
        ({"shards": 0}, "shards: 0 should be greater than or equal to 1"),
        ({"shards": {"val": 2}}, "shards: `train` is missing"),
        ({"shards": {"train": 2, "val": 0}}, "shards.val: 0 should be greater"),
        ({"dataset": {"root": None}}, "dataset.root"),
        ({"dataset": {"ground_truth": True}}, "a plain folder has no labels"),
        (
            {"dataset": {"classes": ["cat", "cat"]}},
            "dataset.classes: ['cat', 'cat'] has non-unique",
        ),
        (
            {"dataset": {"classes": ["background", "cat"]}},
            "dataset.classes.0: 'background' is not allowed: label 0 is the background",
        ),
        (
            {"clustering": {"support": ["my photos"]}},
            "clustering.support.0: 'my photos' does not match '[A-Za-z0-9_][A-Za-z0-9_.-]*': Only",
        ),
        ({"dataset": {"adapter": "coco"}}, "expects `annotations` and `images`"),
        ({"dataset": {"adapter": "voc", "ground_truth": True}}, "dataset.classes"),
        (
            {
                "dataset": {
                    "adapter": "coco",
                    "splits": {
                        "train": {"annotations": "a", "images": "b", "excluded_list": "no.txt"}
                    },
                }
            },
            "dataset.splits.train.excluded_list: there is no file no.txt",
        ),
        (
            {"features": {"weights": "nowhere.pth"}},
            "features.weights: there is no file nowhere.pth",
        ),
    ],
)
def test_unsuitable_values(dataset, own, expected):
    message = error_of(dataset, layers.merge(MINE, own))
    assert "mine.yaml" in message
    assert expected in message


def test_no_training_split(dataset):
    own = {"dataset": {**MINE["dataset"], "splits": {"val": "."}}}
    assert "needs a split `train`" in error_of(dataset, own)


def test_scientific_notation_that_yaml_reads_as_text(dataset):
    own = yaml.safe_dump(MINE) + "segmentation: {weight_decay: 1e-4}\n"
    message = error_of(dataset, own)
    assert "segmentation.weight_decay" in message
    assert "write 1.0e-4" in message
    assert dataset(own.replace("1e-4", "1.0e-4"))["segmentation"]["weight_decay"] == 1e-4


def test_unknown_dataset(dataset, tmp_path):
    dataset(MINE)
    with pytest.raises(InputError, match=r"'mein', did you mean 'mine'\?; known are mine"):
        dataset_config("mein", DEFAULT, [tmp_path])


def test_earlier_folders_come_first(tmp_path):
    for name, top_k in (("first", 0.1), ("second", 0.2)):
        (tmp_path / name).mkdir()
        content = yaml.safe_dump({**MINE, "masks": {"top_k": top_k}})
        (tmp_path / name / "mine.yaml").write_text(content)
    folders = [tmp_path / "first", tmp_path / "second"]
    assert dataset_config("mine", DEFAULT, folders)["masks"]["top_k"] == 0.1
    (tmp_path / "first" / "mine.yaml").unlink()
    assert dataset_config("mine", DEFAULT, folders)["masks"]["top_k"] == 0.2


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "text"])
def test_files_that_are_no_config(tmp_path, content):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=r"a\.yaml: (not valid|expected)") as error:
        layers.read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"b\.yaml: no such config"):
        layers.read_yaml(tmp_path / "b.yaml")


def test_canonical_json():
    first = {"b": {"y": [1, 2], "x": "ü"}, "a": None}
    second = {"a": None, "b": {"x": "ü", "y": [1, 2]}}
    assert changes.canonical_json(first) == changes.canonical_json(second)
    assert json.loads(changes.canonical_json(first)) == first
    assert changes.canonical_json({"a": [1, 2]}) != changes.canonical_json({"a": [2, 1]})


def test_the_default_config_is_valid():
    checks.validate(WorkflowConfig, DEFAULT, source="default")
    assert set(DEFAULT["datasets"]) <= set(SHIPPED)
    wrong = layers.merge(DEFAULT, {"runtime": {"thread": 3}})
    with pytest.raises(InputError, match=r"runtime\.thread', did you mean 'threads'"):
        checks.validate(WorkflowConfig, wrong, source="default")


@pytest.mark.parametrize("name", ["my photos", "é", "a/b", "-n", "..", "a;b", ""])
def test_names_of_datasets_are_names_of_files(name):
    with pytest.raises(InputError, match=r"datasets\.1: .* does not match .*: Only letters"):
        checks.validate(WorkflowConfig, {**DEFAULT, "datasets": ["demo", name]}, source="config")
    checks.validate(WorkflowConfig, {**DEFAULT, "datasets": ["VOC_2012-b.v2"]}, source="config")


def test_extending_another_dataset(tmp_path, dataset):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**MINE, "masks": {"top_k": 0.3}}))
    (tmp_path / "middle.yaml").write_text("extends: base\nmasks: { per_image: 2 }")
    result = dataset({"extends": "middle", "masks": {"per_image": 4}})
    assert (result["masks"]["top_k"], result["masks"]["per_image"]) == (0.3, 4)
    assert "extends" not in result
    assert "'bse', did you mean 'base'?" in error_of(dataset, {"extends": "bse"})
    (tmp_path / "base.yaml").write_text("extends: middle")
    assert "extends itself" in error_of(dataset, {"extends": "middle"})


def test_weights_that_can_be_downloaded_need_not_be_here(tmp_path):
    own = {**MINE, "mask_rcnn": {"weights": "data/weights/some.pth"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    arguments = ("mine", DEFAULT, [tmp_path])
    with pytest.raises(InputError, match=r"there is no file data/weights/some\.pth"):
        dataset_config(*arguments)
    dataset_config(*arguments, downloadable=["data/weights/some.pth"])


@pytest.mark.parametrize(
    ("root", "download", "expected"),
    [("data/voc", "voc", True), ("/data/voc", "voc", False), ("data/voc", None, False)],
)
def test_only_a_root_in_data_is_downloaded_into(root, download, expected):
    dataset = {"dataset": {"root": root, "download": download}}
    assert splits.is_downloaded(dataset) == expected


@pytest.mark.parametrize(("old", "new"), checks.MOVED.items())
def test_a_key_that_has_moved_names_the_new_one(dataset, old, new):
    section, key = old.split(".")
    message = error_of(dataset, layers.merge(MINE, {section: {key: 1}}))
    assert message.endswith(f"mine.yaml: {old} is now {new}; write it there (config/README.md)")
    section, key = new.split(".")
    assert key in DEFAULT["defaults"][section]


def test_the_evaluated_split():
    assert splits.evaluated_split(shipped("demo")) == "val"
    assert splits.evaluated_split({"dataset": {"splits": {"train": "."}}}) == "train"


@pytest.mark.parametrize(
    ("names", "expected"),
    [("train", "train"), ("train val", "val"), ("train val instances", "instances")],
)
def test_the_split_whose_objects_are_evaluated(names, expected):
    described = {"dataset": {"splits": dict.fromkeys(names.split(), ".")}}
    assert splits.instance_split(described) == expected
    assert splits.evaluated_split(described) == expected.replace("instances", "val")
