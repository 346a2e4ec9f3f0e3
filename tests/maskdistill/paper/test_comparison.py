import json

import pytest
import yaml

from workflow_scripts.maskdistill.paper import comparison
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.declared_settings import declared_settings
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

PAPER = json.loads((REPOSITORY / "resources" / "paper_tables.json").read_text(encoding="utf-8"))
VOC_CLASSES = PAPER["tableS2_voc_val_iou"]["classes"]
SETTINGS = {
    "dataset": {"adapter": "voc"},
    "features": {"backbone": comparison.PAPER_BACKBONE, "weights": None},
    "mask_rcnn": {"weights": "weights/moco_v2.pth"},
    "segmentation": {"weights": "weights/moco_v2.pth"},
    "clustering": {"clusters": 20},
}


def mean(value):
    return {"mean": value, "sd": None, "n": 1}


def summary(method="hungarian", classes=VOC_CLASSES, images=1449, miou=0.5):
    def step(method):
        per_class = {name: mean(0.5) for name in classes}
        return {"matching": [method], "miou": mean(miou), "per_class": per_class}

    triple = {"ap": mean(0.1), "ap50": mean(0.3), "ap75": mean(0.05)}
    instance = {"matching": [method], **dict.fromkeys(comparison.AP_SETTINGS, triple)}
    return {
        "class_names": classes,
        "images": images,
        "steps": {"segmentation": step(method), "segmentation_round_1": step(method)},
        "linear_probe": {"steps": {"linear_probe": step("supervised")}},
        "instances": {"steps": {"initial_masks": instance, "mask_rcnn": instance}},
    }


def test_miou_stands_beside_the_papers():
    found = comparison.step_miou(summary(), "segmentation", PAPER, "voc")
    assert found["paper"] == 0.458
    assert found["difference"] == pytest.approx(0.042)
    # The paper's table knows no further round without CRF, and no other dataset.
    assert comparison.step_miou(summary(), "segmentation_round_1", PAPER, "voc")["paper"] is None
    assert comparison.step_miou(summary(), "segmentation", PAPER, "coco20k")["paper"] is None
    assert comparison.step_miou(summary(), "segmentation", {}, "voc")["paper"] is None


def test_an_undefined_number_has_no_difference():
    found = comparison.step_miou(summary(miou=None), "segmentation", PAPER, "voc")
    assert found["paper"] == pytest.approx(0.458)
    assert found["difference"] is None


def test_the_linear_probe_has_its_own_column_of_the_paper():
    found = comparison.linear_miou(summary(), PAPER, "voc")
    assert found["linear_probe"]["paper"] == pytest.approx(0.587)
    assert comparison.linear_miou({"steps": {}}, PAPER, "voc") == {}


def with_rounds(count):
    """A summary of so many CRF rounds, without and with CRF each, and as many linear probes."""
    found = summary()
    clusters, probe = found["steps"]["segmentation"], found["linear_probe"]["steps"]["linear_probe"]
    found["steps"], found["linear_probe"]["steps"] = {}, {}
    for number in range(count + 1):
        ending = f"_round_{number}" if number else ""
        for crf in ("", "_crf"):
            found["steps"][f"segmentation{ending}{crf}"] = clusters
            found["linear_probe"]["steps"][f"linear_probe{ending}{crf}"] = probe
    return found


def papers(cells):
    return {step: cell["paper"] for step, cell in cells.items() if cell["paper"] is not None}


@pytest.mark.parametrize(
    ("rounds", "ending"), [(0, ""), (1, "_round_1"), (2, "_round_2")], ids=["none", "one", "two"]
)
def test_the_papers_numbers_with_crf_stand_beside_the_model_of_the_last_round(rounds, ending):
    """Those without CRF stand beside the first model, and nothing beside what lies between."""
    found = with_rounds(rounds)
    cells = {s: comparison.step_miou(found, s, PAPER, "voc") for s in found["steps"]}
    assert papers(cells) == {"segmentation": 0.458, f"segmentation{ending}_crf": 0.489}
    assert papers(comparison.linear_miou(found, PAPER, "voc")) == {
        "linear_probe": 0.587,
        f"linear_probe{ending}_crf": 0.628,
    }
    cats = {step: cells["cat"] for step, cells in comparison.class_iou(found, PAPER).items()}
    assert len(cats) == 4 * (rounds + 1)
    assert papers(cats) == {
        "segmentation": 0.724,
        f"segmentation{ending}_crf": 0.757,
        "linear_probe": 0.827,
        f"linear_probe{ending}_crf": 0.863,
    }


def test_crf_without_a_further_training_is_an_obstacle():
    (found,) = comparison.obstacles(SETTINGS, with_rounds(0))
    assert "crf.rounds: 1" in found
    assert comparison.obstacles(SETTINGS, with_rounds(1)) == []


def test_majority_matching_stands_beside_nothing_of_the_paper():
    overclustered = summary("majority")
    assert comparison.step_miou(overclustered, "segmentation", PAPER, "voc")["paper"] is None
    cells = comparison.class_iou(overclustered, PAPER)
    assert cells["segmentation"]["cat"]["paper"] is None
    assert cells["linear_probe"]["cat"]["paper"] == pytest.approx(0.827)
    overclustered["steps"]["segmentation"]["matching"] = ["hungarian", "majority"]
    assert comparison.class_iou(overclustered, PAPER)["segmentation"]["cat"]["paper"] is None
    for table in comparison.instance_tables(overclustered, PAPER, "voc"):
        papers = [cell["paper"] for row in table["rows"] for cell in row["cells"]]
        assert table["matching"] in ("majority", None)
        assert (papers[0] is None) == (
            table["matching"] == "majority" or "single" in table["title"]
        )


def test_steps_of_different_matchings_share_no_table():
    mixed = summary()
    mixed["steps"]["segmentation_round_1"]["matching"] = ["majority"]
    assert comparison.step_groups(mixed) == {
        "hungarian": ["segmentation"],
        "majority": ["segmentation_round_1"],
    }
    mixed["instances"]["steps"]["mask_rcnn"] = {
        **mixed["instances"]["steps"]["mask_rcnn"],
        "matching": ["majority"],
    }
    for table in comparison.instance_tables(mixed, PAPER, "voc"):
        if table["title"].startswith("Class-aware"):
            assert len(table["rows"]) == 1


def test_classes_of_different_matchings_share_no_table():
    mixed = with_rounds(0)
    mixed["steps"]["segmentation_crf"] = {
        **mixed["steps"]["segmentation_crf"],
        "matching": ["majority"],
    }
    found = dict(comparison.class_tables(mixed, PAPER))
    assert {method: list(steps) for method, steps in found.items()} == {
        "hungarian": ["segmentation"],
        "majority": ["segmentation_crf"],
        "supervised": ["linear_probe", "linear_probe_crf"],
    }
    assert papers(next(iter(found["majority"].values()))) == {}


def test_mask_ap_stands_beside_table_3():
    tables = {
        table["title"]: table for table in comparison.instance_tables(summary(), PAPER, "voc")
    }
    candidates = tables["Class-agnostic, multi-object"]["rows"][1]
    assert candidates["step"] == "mask_rcnn"
    assert [cell["paper"] for cell in candidates["cells"]] == pytest.approx([0.243, 0.099, 0.069])
    assert candidates["cells"][0]["difference"] == pytest.approx(0.3 - 0.243)
    single = tables["Class-aware, single object"]["rows"][1]
    assert single["cells"][0]["paper"] == pytest.approx(0.328)
    coco = {t["title"]: t for t in comparison.instance_tables(summary(), PAPER, "coco20k")}
    aware = coco["Class-aware, multi-object"]["rows"][0]["cells"]
    assert [cell["paper"] for cell in aware] == pytest.approx([0.041, 0.017, 0.014])


def test_classes_stand_beside_table_s2_only_if_they_are_vocs():
    cells = comparison.class_iou(summary(), PAPER)["segmentation"]
    assert cells["cat"]["paper"] == pytest.approx(0.724)
    assert cells["cat"]["difference"] == pytest.approx(0.5 - 0.724)
    others = comparison.class_iou(summary(classes=["background", "cat"]), PAPER)
    assert others["segmentation"]["cat"]["paper"] is None


def test_the_papers_own_experiment_has_no_obstacle():
    assert comparison.obstacles(SETTINGS, summary()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("voc2012", []), ("voc2012_official", ["masks embedded by another network"])],
)
def test_the_recipe_is_the_papers_experiment(name, expected):
    """Its numbers compare; what the published code does instead is named."""
    catalogue = yaml.safe_load((REPOSITORY / "resources" / "downloads.yaml").read_text())
    settings = dataset_config(
        name,
        yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text()),
        [REPOSITORY / "config" / "datasets"],
        downloadable=catalogue["files"],
    )
    found = comparison.obstacles(settings, with_rounds(settings["crf"]["rounds"]))
    assert [phrase.partition(":")[0] for phrase in found] == expected
    known = declared_settings(REPOSITORY)["tabulate_ablation"].select(settings)
    assert comparison.obstacles(known, with_rounds(settings["crf"]["rounds"])) == found


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"clustering": {"clusters": 27}}, "27 clusters, not 20"),
        ({"features": {"backbone": "vit_tiny", "weights": None}}, "ViT-S/16: vit_tiny"),
        (
            {"features": {"backbone": comparison.PAPER_BACKBONE, "weights": "mae.pth"}},
            "the backbone from mae.pth, not DINO's weights",
        ),
        ({"embedding": {"backbone": "resnet18"}}, "embedded by another network: resnet18"),
        ({"mask_rcnn": {"weights": None}}, "Mask R-CNN from randomly drawn weights"),
        ({"segmentation": {"weights": "r50.pth"}}, "segmentation from r50.pth"),
    ],
)
def test_obstacles_are_named(change, phrase):
    (found,) = comparison.obstacles(SETTINGS | change, summary())
    assert phrase in found


@pytest.mark.parametrize(
    ("adapter", "images", "phrase"),
    [
        ("voc", 2913, None),
        ("voc", 1449, "mask AP on 1,449 images, not on the 2,913"),
        ("coco", 19817, None),
    ],
)
def test_mask_ap_on_other_images_than_the_papers(adapter, images, phrase):
    measured = summary()
    settings = SETTINGS | {"dataset": {"adapter": adapter}}
    measured["instances"]["images"] = images
    found = comparison.instance_obstacles(settings, measured)
    assert (phrase in found[0]) if phrase else found == []
    del measured["instances"]
    assert comparison.instance_obstacles(settings, measured) == []


def test_another_dataset_is_an_obstacle():
    (found,) = comparison.obstacles(SETTINGS, summary(images=120))
    assert "20 classes, 120 images" in found
    coco = SETTINGS | {"dataset": {"adapter": "coco"}, "clustering": {"clusters": 80}}
    (found,) = comparison.obstacles(coco, summary())
    assert "COCO20k" in found
