"""What every rule declares of the config, and what a change makes stale by itself."""

import pytest
import yaml

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.declared_settings import Declaration, declared_settings
from workflow_scripts.maskdistill.settings import changes, checks, layers
from workflow_scripts.maskdistill.settings.whole_config import DatasetConfig, dataset_config

FOLDER = REPOSITORY / "config"
DEFAULT = yaml.safe_load((FOLDER / "default.yaml").read_text())
SHIPPED = sorted(path.stem for path in (FOLDER / "datasets").glob("*.yaml"))
DECLARED = declared_settings(REPOSITORY)


def shipped(name):
    """The config of a shipped dataset, as if all that can be downloaded were here."""
    catalogue = yaml.safe_load((FOLDER.parent / "resources" / "downloads.yaml").read_text())
    return dataset_config(name, DEFAULT, [FOLDER / "datasets"], downloadable=catalogue["files"])


def test_declarations_are_read_from_the_text_of_the_rules(tmp_path):
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "some.smk").write_text(
        """
rule first:
    params:
        settings=settings(
            "masks",  # a comment
            "clustering.clusters",
            merged=False,
        ),


TABLE = {"one": settings("crf"), "other": settings()}


use rule first as second with:
    params:
        settings=settings("*", without=("crf", "dataset.root")),


rule third:
    shell:
        "true"
"""
    )
    assert declared_settings(tmp_path) == {
        "first": Declaration(("masks", "clustering.clusters"), merged=False),
        "one": Declaration(("crf",)),
        "other": Declaration(()),
        "second": Declaration(("*",), without=("crf", "dataset.root")),
    }


def test_parts_are_left_out_where_there_are_any():
    declared = Declaration(("*",), without=("crf", "dataset.root", "dataset.missing", "no.such"))
    demo = shipped("demo")
    found = declared.select(demo)
    assert found.keys() == {*demo, "curation"} - {"crf"}
    assert found["dataset"].keys() == demo["dataset"].keys() - {"root"}


def test_a_listing_depends_on_its_own_split():
    demo = shipped("demo")
    found = DECLARED["list_images"].select(demo, split="val")
    assert found["dataset"]["splits"] == {"val": demo["dataset"]["splits"]["val"]}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_valid_and_give_every_rule_its_settings(name):
    merged = shipped(name)
    checks.validate(DatasetConfig, merged, source=name)
    for rule, declared in DECLARED.items():
        settings = declared.select(merged, split="train")
        if rule != "report":
            assert set(settings) == {path.split(".")[0] for path in declared.paths}
        for section, values in settings.items():
            if section in declared.paths and section not in ("dataset", "curation"):
                only = Declaration((section,), without=declared.without)
                expected = only.select(merged)[section] if declared.without else merged[section]
                assert values == expected
        changes.canonical_json(settings)


@pytest.mark.parametrize("name", SHIPPED)
def test_learning_rates_of_shipped_configs_fall_before_the_end(name):
    assert checks.all_unreached_falls(shipped(name)) == []


def stale_after(change, name="demo"):
    before = shipped(name)
    after = layers.merge(before, change)
    return {
        rule
        for rule, declared in DECLARED.items()
        if rule != "report"
        and changes.canonical_json(declared.select(before, split="train"))
        != changes.canonical_json(declared.select(after, split="train"))
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


# As in the table of config/README.md: what a change makes stale by itself, without what follows.
@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (
            {"features": {"shorter_side": 99}},
            {"extract_features", "extract_masks", "embed_masks", "train_vit_head"},
        ),
        ({"features": {"tokens": True}}, {"extract_features"}),
        ({"features": {"precision": "float16"}}, {"extract_features", "extract_masks"}),
        ({"masks": {"center_keys": False}}, {"make_masks", "extract_masks", "lost"}),
        ({"masks": {"top_k": 0.11}}, {"make_masks", "extract_masks"}),
        ({"store_features": False}, set()),  # other jobs
        (
            {"masks": {"per_image": 9, "split_components": True}},
            {"make_masks", "extract_masks"},
        ),
        ({"embedding": {"input": "box_crop"}}, {"embed_masks"}),
        ({"mask_rcnn": {"iterations": 7, "longer_side": 77}}, {"train_mask_rcnn"}),
        ({"mask_rcnn": {"precision": "bfloat16"}}, {"train_mask_rcnn"}),
        (
            {"candidates": {"longer_side": 77, "score_floor": 0.2, "precision": "float16"}},
            {"predict_candidates", "describe_use"},
        ),
        (
            {"confidence": {"threshold": 0.123}},
            {"filter_candidates", "check_health", "describe_use"},
        ),
        ({"confidence": {"overlap": 0.5}}, {"filter_candidates", "describe_use"}),
        ({"segmentation": {"precision": "float16"}}, {"train_segmentation"}),
        ({"segmentation": {"epochs": 77}}, {"train_segmentation", "train_vit_head"}),
        (
            {"segmentation": {"crop_size": 77}},
            {"train_segmentation", "train_vit_head", "train_linear_probe"},
        ),
        (
            {"predictions": {"precision": "bfloat16"}},
            {"predict_segmentation", "refine_predictions", "train_linear_probe", "describe_use"},
        ),
        (
            {"predictions": {"longer_side": 77, "tile": None}},
            {"predict_segmentation", "refine_predictions", "describe_use"},
        ),
        (
            {"segmentation": {"longer_side": 77}},
            {"train_segmentation", "train_linear_probe"},
        ),
        ({"crf": {"iterations": 77}}, {"refine_predictions", "describe_use"}),
        ({"crf": {"rounds": 7}}, set()),  # more jobs, but the same ones
        ({"seeds": [7, 8]}, {"compare_cluster_counts", "map_masks"}),
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
                "train_vit_head",
                "evaluate",
                "check_health",
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
        ({"clustering": {"suggestions": [7]}}, {"compare_cluster_counts"}),
        (
            {"clustering": {"standardize": True}},
            {
                *("cluster_masks", "assign_masks", "draw_contact_sheets"),
                *("compare_cluster_counts", "map_masks"),
            },
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
    assert DECLARED["report"].select(after) == DECLARED["report"].select(before)
    assert DECLARED["report"].select(after)["images"] == {"max_pixels": 100_000_000, "min_side": 16}


def test_a_rule_depends_on_the_labels_of_its_own_split():
    coco = shipped("coco20k")
    splits = {name: {"annotations": f"{name}.json", "images": "."} for name in ("train", "val")}
    changed = layers.merge(coco, {"dataset": {"splits": splits}})

    def annotations(rule, of):
        return DECLARED[rule].select(of)["dataset"]["splits"]

    assert annotations("write_ground_truth", changed) == {"train": {"annotations": "train.json"}}
    assert annotations("evaluate", changed) == {"val": {"annotations": "val.json"}}
    assert annotations("evaluate_instances", changed) == {"val": {"annotations": "val.json"}}
    assert list(annotations("evaluate", coco)) == ["train"]
    # VOC's label maps lie in the dataset's root, whatever its lists of images are called.
    assert "splits" not in DECLARED["evaluate"].select(shipped("voc2012"))["dataset"]


def test_merging_and_renaming_clusters_make_other_rules_stale():
    demo = shipped("demo")

    def stale(before, after):
        return {
            rule
            for rule, declared in DECLARED.items()
            if declared.select(demo, before, "train") != declared.select(demo, after, "train")
        }

    renamed = {"unpack_label_maps", "export_dataset", "export_model", "write_applied"}
    renamed |= {"write_gallery", "describe_use", "report"}
    assert stale({}, {1: "a", 5: "b"}) == renamed
    assert stale({1: "a", 2: "a"}, {1: "b", 2: "b", 4: "c"}) == renamed
    merged = {"paint_masks", "write_pseudo_labels", "filter_candidates", "train_segmentation",
              "score_masks", "train_vit_head",
              "evaluate", "evaluate_instances", "paint_boxes", "tabulate_ablation"}  # fmt: skip
    assert stale({}, {1: "a", 5: "a"}) == stale({}, {3: "background"}) == renamed | merged
    # As many classes as before, but others.
    assert stale({1: "a", 5: "a"}, {1: "a", 4: "a"}) >= {"paint_masks", "write_pseudo_labels"}
    found = DECLARED["cluster_masks"].select(demo, {1: "a", 5: "a"})["clustering"]
    assert found["clusters"] == demo["clustering"]["clusters"]
    assert DECLARED["report"].select(demo, {1: "a"})["curation"]["names"][0] == "a"


def test_ablations_are_no_setting_of_the_report():
    before = shipped("demo")
    after = layers.merge(before, {"evaluation": {"ablations": {"top_k": [0.123]}}})
    assert DECLARED["report"].select(before) == DECLARED["report"].select(after)
    assert "linear_probe" in DECLARED["report"].select(before)["evaluation"]
