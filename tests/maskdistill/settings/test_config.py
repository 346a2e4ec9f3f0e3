import copy
import json

import pytest
import yaml

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings import changes, checks, config, layers, splits
from workflow_scripts.maskdistill.settings.whole_config import (
    DatasetConfig,
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
            "clustering.support.0: 'my photos' does not match '[A-Za-z0-9_][A-Za-z0-9_.-]*': Let",
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


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_valid_and_give_every_rule_its_settings(name):
    merged = shipped(name)
    checks.validate(DatasetConfig, merged, source=name)
    for rule, paths in config.RULE_SETTINGS.items():
        settings = config.rule_settings(rule, merged)
        assert set(settings) == {path.split(".")[0] for path in paths}
        for section, values in settings.items():
            if section in paths and section not in ("dataset", "curation"):
                assert values == merged[section]
        changes.canonical_json(settings)
    changes.canonical_json(config.report_settings(merged))


def test_the_default_config_is_valid():
    checks.validate(WorkflowConfig, DEFAULT, source="default")
    assert set(DEFAULT["datasets"]) <= set(SHIPPED)
    wrong = layers.merge(DEFAULT, {"runtime": {"thread": 3}})
    with pytest.raises(InputError, match=r"runtime\.thread', did you mean 'threads'"):
        checks.validate(WorkflowConfig, wrong, source="default")


@pytest.mark.parametrize("name", ["my photos", "é", "a/b", "-n", "..", "a;b", ""])
def test_names_of_datasets_are_names_of_files(name):
    with pytest.raises(InputError, match=r"datasets\.1: .* does not match .*: Letters"):
        checks.validate(WorkflowConfig, {**DEFAULT, "datasets": ["demo", name]}, source="config")
    checks.validate(WorkflowConfig, {**DEFAULT, "datasets": ["VOC_2012-b.v2"]}, source="config")


def stale_after(change, name="demo"):
    before = shipped(name)
    after = layers.merge(before, change)
    return {
        rule
        for rule in config.RULE_SETTINGS
        if changes.canonical_json(config.rule_settings(rule, before))
        != changes.canonical_json(config.rule_settings(rule, after))
    }


READS_LABELS = {
    "evaluate",
    "evaluate_instances",
    "write_ground_truth",
    "train_linear_probe",
    "evaluate_linear_probe",
    "write_gallery",
    "export_dataset",
}


# The table of DESIGN.md: what a change makes stale by itself; what comes after it follows.
@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (
            {"features": {"shorter_side": 99}},
            {"extract_features", "extract_masks", "embed_masks"},
        ),
        ({"features": {"precision": "float16"}}, {"extract_features", "extract_masks"}),
        ({"masks": {"center_keys": False}}, {"make_masks", "extract_masks", "lost"}),
        ({"masks": {"top_k": 0.11}}, {"make_masks", "extract_masks"}),
        ({"store_features": False}, set()),  # other jobs
        ({"embedding": {"input": "box_crop"}}, {"embed_masks"}),
        ({"mask_rcnn": {"iterations": 7, "longer_side": 77}}, {"train_mask_rcnn"}),
        ({"mask_rcnn": {"precision": "bfloat16"}}, {"train_mask_rcnn"}),
        (
            {"candidates": {"longer_side": 77, "score_floor": 0.2, "precision": "float16"}},
            {"predict_candidates", "describe_use"},
        ),
        ({"confidence": {"threshold": 0.123}}, {"filter_candidates", "describe_use"}),
        ({"segmentation": {"epochs": 77, "precision": "float16"}}, {"train_segmentation"}),
        ({"segmentation": {"crop_size": 77}}, {"train_segmentation", "train_linear_probe"}),
        (
            {"predictions": {"precision": "bfloat16"}},
            {"predict_segmentation", "refine_predictions", "train_linear_probe", "describe_use"},
        ),
        ({"crf": {"iterations": 77}}, {"refine_predictions", "describe_use"}),
        ({"crf": {"rounds": 7}}, set()),  # more jobs, but the same ones
        ({"seeds": [7, 8]}, set()),
        ({"report": {"examples": 77}}, set()),
        ({"dataset": {"root": "elsewhere"}}, set()),
        ({"evaluation": {"linear_probe": {"epochs": 7}}}, {"train_linear_probe"}),
        ({"evaluation": {"linear_probe": {"enabled": False}}}, set()),
        ({"clustering": {"support": ["other"]}}, set()),  # other input files
        ({"dataset": {"ground_truth": False, "classes": []}}, READS_LABELS),
        ({"images": {"min_side": 77}}, {"list_images"}),
        ({"images": {"max_rejected": 0.7, "max_rejected_count": 77}}, set()),
        (
            {"clustering": {"clusters": 77}},
            {
                "cluster_masks",
                "paint_masks",
                "write_pseudo_labels",
                "filter_candidates",
                "train_segmentation",
                "evaluate",
                "write_gallery",
                # the names of the clusters
                "unpack_label_maps",
                "export_dataset",
                "export_model",
                "write_applied",
                "describe_use",
                "paint_boxes",
                "tabulate_ablation",
            },
        ),
        ({"evaluation": {"ablations": {"clusters": [7], "seeds": [7]}}}, set()),
        ({"evaluation": {"ablations": {"lost_patches": 7}}}, {"lost"}),
        ({"evaluation": {"ablations": {"dino_seg_mass": 0.7}}}, {"dino_seg"}),
        ({"clustering": {"redo": 77}}, {"cluster_masks"}),
        (
            {"clustering": {"standardize": True}},
            {"cluster_masks", "assign_masks", "draw_contact_sheets"},
        ),
        ({"embedding": {"crop_side": None}}, {"embed_masks"}),
        ({"dataset": {"download": "elsewhere"}}, set()),
    ],
)
def test_what_a_change_makes_stale(change, stale):
    assert stale_after(change) == stale


def test_how_many_images_may_be_unusable_is_no_setting_of_a_result():
    before = shipped("demo")
    after = layers.merge(before, {"images": {"max_rejected": 0.7, "max_rejected_count": 77}})
    assert config.report_settings(after) == config.report_settings(before)
    assert config.report_settings(after)["images"] == {"max_pixels": 100_000_000, "min_side": 16}


def test_extending_another_dataset(tmp_path, dataset):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**MINE, "masks": {"top_k": 0.3}}))
    (tmp_path / "middle.yaml").write_text("extends: base\nmasks: { per_image: 2 }")
    result = dataset({"extends": "middle", "masks": {"per_image": 4}})
    assert (result["masks"]["top_k"], result["masks"]["per_image"]) == (0.3, 4)
    assert "extends" not in result
    assert "'bse', did you mean 'base'?" in error_of(dataset, {"extends": "bse"})
    (tmp_path / "base.yaml").write_text("extends: middle")
    assert "extends itself" in error_of(dataset, {"extends": "middle"})


def test_support_is_embedded_in_the_same_way():
    for name in ("voc2012", "voc2012_official", "coco20k", "coco20k_official"):
        own = shipped(name)
        (support,) = own["clustering"]["support"]
        config.check_support(name, {name: own, support: shipped(support)})
    mixed = {"voc2012": shipped("voc2012"), "voc2007": shipped("voc2007_official")}
    with pytest.raises(InputError, match="voc2007 has other settings of `features` or"):
        config.check_support("voc2012", mixed)


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


def test_a_rule_depends_on_the_labels_of_its_own_split():
    coco = shipped("coco20k")
    splits = {name: {"annotations": f"{name}.json", "images": "."} for name in ("train", "val")}
    changed = layers.merge(coco, {"dataset": {"splits": splits}})

    def annotations(rule, of):
        return config.rule_settings(rule, of)["dataset"]["splits"]

    assert annotations("write_ground_truth", changed) == {"train": {"annotations": "train.json"}}
    assert annotations("evaluate", changed) == {"val": {"annotations": "val.json"}}
    assert annotations("evaluate_instances", changed) == {"val": {"annotations": "val.json"}}
    assert list(annotations("evaluate", coco)) == ["train"]
    # VOC's label maps lie in the dataset's root, whatever its lists of images are called.
    assert "splits" not in config.rule_settings("evaluate", shipped("voc2012"))["dataset"]


def test_merging_and_renaming_clusters_make_other_rules_stale():
    demo = shipped("demo")

    def stale(before, after):
        return {
            rule
            for rule in config.RULE_SETTINGS
            if config.rule_settings(rule, demo, before) != config.rule_settings(rule, demo, after)
        }

    renamed = {"unpack_label_maps", "export_dataset", "export_model", "write_applied"}
    renamed |= {"write_gallery", "describe_use"}
    assert stale({}, {1: "a", 5: "b"}) == renamed
    assert stale({1: "a", 2: "a"}, {1: "b", 2: "b", 4: "c"}) == renamed
    merged = {"paint_masks", "write_pseudo_labels", "filter_candidates", "train_segmentation",
              "evaluate", "evaluate_instances", "paint_boxes", "tabulate_ablation"}  # fmt: skip
    assert stale({}, {1: "a", 5: "a"}) == stale({}, {3: "background"}) == renamed | merged
    # As many classes as before, but others.
    assert stale({1: "a", 5: "a"}, {1: "a", 4: "a"}) >= {"paint_masks", "write_pseudo_labels"}
    found = config.rule_settings("cluster_masks", demo, {1: "a", 5: "a"})["clustering"]
    assert found["clusters"] == demo["clustering"]["clusters"]
    assert config.report_settings(demo, {1: "a"})["curation"]["names"][0] == "a"


def test_ablations_are_no_setting_of_the_report():
    before = shipped("demo")
    after = layers.merge(before, {"evaluation": {"ablations": {"top_k": [0.123]}}})
    assert config.report_settings(before) == config.report_settings(after)
    assert "linear_probe" in config.report_settings(before)["evaluation"]


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
