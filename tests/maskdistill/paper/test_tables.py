import pytest

from tests.maskdistill.paper.summaries import (
    MAIN,
    ON,
    VOC,
    instances,
    mean,
    step,
    summary,
    swept,
    tables,
)
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.paper import comparison, items
from workflow_scripts.maskdistill.paper import tables as paper_tables


def test_table_1_has_every_component_beside_the_papers():
    (table,) = tables("table_1", {"all_pixels": summary(steps={"segmentation": step(0.43)})})
    cells = {row["name"]: row["cells"]["mIoU"] for row in table["rows"]}
    assert table["matching"] == "hungarian"
    assert {name: cell["paper"] for name, cell in cells.items()} == pytest.approx(
        {
            "initial_masks": 0.39,
            "mask_rcnn": 0.42,
            "segmentation_without_hard_pixels": 0.455,
            "segmentation": 0.458,
        }
    )
    assert cells["segmentation_without_hard_pixels"]["ours"] == mean(0.43)
    assert cells["segmentation_without_hard_pixels"]["difference"] == pytest.approx(-0.025)


def test_table_s1_takes_boxes_from_their_variant():
    boxes = {"mask_rcnn_boxes": step(0.3), "mask_rcnn_boxes_grabcut": step(0.35)}
    (table,) = tables("table_s1", {"boxes": summary(steps=boxes)})
    cells = {row["name"]: row["cells"]["mIoU"] for row in table["rows"]}
    assert cells["mask_rcnn_boxes"]["paper"] == pytest.approx(0.318)
    assert cells["mask_rcnn_boxes_grabcut"]["ours"]["mean"] == 0.35
    assert cells["mask_rcnn_masks"]["ours"]["mean"] == 0.41
    assert list(cells)[-1] == "segmentation_crf"


def test_other_datasets_and_majority_matching_have_no_number_of_the_paper():
    boxes = {name: step(0.3, "majority") for name in ("mask_rcnn_boxes", "mask_rcnn_boxes_grabcut")}
    others = {"boxes": summary(steps=boxes)}
    found = tables("table_s1", others)
    assert [table["matching"] for table in found] == ["hungarian", "majority"]
    assert all(row["cells"]["mIoU"]["paper"] is None for row in found[1]["rows"])
    for table in tables("table_s1", others, dataset="coco20k") + tables("table_s1", others, {}, {}):
        assert all(row["cells"]["mIoU"]["paper"] is None for row in table["rows"])


def test_table_2_keeps_clustering_and_linear_probe_apart():
    clustering, linear = tables("table_2")
    assert (clustering["matching"], linear["matching"]) == ("hungarian", "supervised")
    assert (clustering["title"], linear["title"]) == ("Clustering", "Linear probe, with labels")
    assert [row["name"] for row in clustering["rows"]] == ["segmentation", "segmentation_crf"]
    assert linear["rows"][0]["cells"]["mIoU"]["paper"] == pytest.approx(0.587)


def test_table_s2_has_all_classes():
    clustering, linear = tables("table_s2")
    assert [row["name"] for row in clustering["rows"]] == VOC
    assert list(clustering["rows"][0]["cells"]) == ["segmentation", "segmentation_crf"]
    assert clustering["rows"][1]["cells"]["segmentation"]["paper"] == pytest.approx(0.747)
    assert list(linear["rows"][0]["cells"]) == ["linear_probe"]


def test_after_crf_rounds_the_papers_numbers_stand_beside_what_they_are_of():
    rounds = {"segmentation_round_1": step(0.8), "segmentation_round_1_crf": step(0.9)}
    probe = step(0.6, "supervised")
    later = {"linear_probe_crf": probe, "linear_probe_round_1_crf": probe}
    main = {
        **MAIN,
        "steps": {**MAIN["steps"], **rounds},
        "linear_probe": {"steps": {"linear_probe": probe, **later}},
    }
    boxes = {name: step(0.3) for name in ("mask_rcnn_boxes", "mask_rcnn_boxes_grabcut")}

    def rows(table):
        cells = {row["name"]: row["cells"]["mIoU"] for row in table["rows"]}
        return {name: (cell["ours"]["mean"], cell["paper"]) for name, cell in cells.items()}

    expected = {
        "segmentation": (0.46, 0.458),
        "segmentation_crf": (0.5, None),
        "segmentation_round_1": (0.8, None),
        "segmentation_round_1_crf": (0.9, 0.489),
    }
    (components,) = tables("table_s1", {"main": main, "boxes": summary(steps=boxes)})
    assert list(rows(components).items())[-4:] == list(expected.items())
    clustering, linear = tables("table_2", {"main": main})
    assert rows(clustering) == expected
    assert {name: paper for name, (_, paper) in rows(linear).items()} == {
        "linear_probe": 0.587,
        "linear_probe_crf": None,
        "linear_probe_round_1_crf": 0.628,
    }
    by_class, _ = tables("table_s2", {"main": main})
    cells = by_class["rows"][0]["cells"]
    assert list(cells) == list(expected)
    assert cells["segmentation_round_1_crf"]["paper"] == pytest.approx(0.854)
    assert items.name_of("segmentation_round_1_crf") == "Segmentation round 1 + CRF"
    assert items.name_of("striped_disc") == "striped_disc"


def test_a_probe_that_is_scored_on_its_training_images_says_so():
    one_split = {**MAIN, "split": "train"}
    for item in ("table_2", "table_s2"):
        clustering, linear = tables(item, {"main": one_split})
        assert "training images" in linear["title"]
        assert "training images" not in clustering["title"]


def test_table_3_sets_the_baselines_beside_ours():
    others = {
        name: summary(instances={**ON, "steps": {"initial_masks": instances(ap)}})
        for name, ap in (("dino_seg", 0.01), ("lost", 0.02))
    }
    found = tables("table_3", others)
    assert len(found) == 4
    for table in found:
        names = [row["name"] for row in table["rows"]]
        assert names == ["dino", "lost", "initial_masks", "mask_rcnn"]
    (agnostic,) = [t for t in found if t["title"] == "Class-agnostic, multi-object"]
    cells = agnostic["rows"][1]["cells"]
    assert list(cells) == ["AP50", "AP", "AP75"]
    assert cells["AP"] == {
        "ours": mean(0.02),
        "paper": pytest.approx(0.029),
        "difference": pytest.approx(-0.009),
    }


def test_figure_3_never_mixes_hungarian_and_majority_matching():
    others, sweep = swept((10, 0.1, "hungarian"), (20, 0.2, "hungarian"), (40, 0.4, "majority"))
    found = tables("figure_3", others, sweep)
    assert [table["matching"] for table in found] == ["hungarian", "majority"]
    assert [[row["name"] for row in table["rows"]] for table in found] == [["10", "20"], ["40"]]
    assert "overclustering" in items.title_of(found[1])
    comparable, apart = paper_tables.split_overclustering(found)
    assert (comparable, apart) == ([found[0]], [found[1]])
    assert paper_tables.split_overclustering([found[1]]) == ([found[1]], [])


def test_figure_4_shows_ap_and_the_number_of_proposals():
    others, sweep = swept((0.2, 0.1, "hungarian"), (0.4, 0.2, "hungarian"))
    proposals, agnostic, aware = tables("figure_4", others, {**sweep, 0.5: "main"})
    assert proposals["unit"] == "count"
    assert [row["cells"]["proposals"]["ours"]["mean"] for row in proposals["rows"]] == [12] * 3
    assert [row["name"] for row in agnostic["rows"]] == ["0.2", "0.4", "0.5"]
    assert aware["rows"][2]["cells"]["AP50"]["ours"]["mean"] == pytest.approx(0.08)


def test_figure_5_shows_miou_of_what_all_thresholds_have():
    others, sweep = swept((0.5, 0.3, "hungarian"), (0.7, 0.35, "hungarian"))
    (table,) = tables("figure_5", others, {**sweep, 0.9: "main"})
    means = [row["cells"]["mIoU"]["ours"]["mean"] for row in table["rows"]]
    assert means == [0.3, 0.35, 0.41]


def test_every_table_says_what_it_is_measured_and_matched_on():
    baselines = {
        name: summary(instances={**ON, "steps": {"initial_masks": instances(0.01)}})
        for name in ("dino_seg", "lost")
    }
    found = {t["title"]: items.images_of(t) for t in tables("table_3", baselines)}
    objects, matched = "2,913 images of “instances”", ", matched on 1,449 of “val”"
    assert found == {
        title: objects + (matched if "aware" in title else "")
        for title in comparison.AP_SETTINGS.values()
    }
    clustering, linear = tables("table_2")
    assert items.images_of(clustering) == "1,449 images of “val”, matched on the same images"
    assert items.images_of(linear) == "1,449 images of “val”"


def test_variants_on_different_images_are_an_error():
    others, sweep = swept((10, 0.1, "hungarian"), (20, 0.2, "hungarian"))
    others["variant-20"]["instances"] |= {"images": 2912}
    with pytest.raises(InputError, match=r"figure_3: the variants .* different images"):
        tables("figure_3", others, sweep)


def test_csv_rows_are_flat():
    (table,) = tables("table_1", {"all_pixels": summary(steps={"segmentation": step(0.43)})})
    row = next(paper_tables.csv_rows([table], comparable=False))
    assert row == {
        "table": "mIoU",
        "matching": "hungarian",
        "split": "val",
        "images": 1449,
        "matched_on": "val",
        "row": "initial_masks",
        "column": "mIoU",
        "mean": 0.40,
        "sd": 0.01,
        "n": 3,
        "paper": pytest.approx(0.39),
        "difference": pytest.approx(0.01),
        "comparable": "no",
    }
