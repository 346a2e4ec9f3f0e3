import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import results_tree
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.inspection import image_record


@pytest.fixture
def tree(results):
    return results / "results" / "tiny"


def collect(results, name, seed=None):
    tree = results / "results" / "tiny"
    split, row = image_record.find_image(tree, name)
    return image_record.collect(tree, split, row, results / "data" / "tiny", seed)


@pytest.mark.parametrize("wanted", ["JPEGImages/6.jpg", "6.jpg", "6"])
def test_an_image_is_found_by_id_and_by_name(tree, wanted):
    split, row = image_record.find_image(tree, wanted)
    assert (split, row["image_id"], row["shard"]) == ("val", 6, 1)


def test_the_id_goes_before_a_like_name(tree):
    # Image 4 is called 4.jpg; nothing else is.
    assert image_record.find_image(tree, "5")[1]["file_name"] == results_tree.EVIL


def test_an_unknown_image(tree):
    with pytest.raises(InputError, match="no image 'nothing'"):
        image_record.find_image(tree, "nothing")


def test_a_name_of_several_images(tmp_path):
    rows = [
        {"image_id": i, "file_name": name, "shard": 0, "status": "ok"}
        for i, name in enumerate(["a/x.jpg", "b/x.jpg"])
    ]
    shards.write_table(tmp_path / "train" / "images" / "0000.parquet", "images", rows, {})
    with pytest.raises(InputError, match=r"may be a/x\.jpg or b/x\.jpg"):
        image_record.find_image(tmp_path, "x.jpg")
    assert image_record.find_image(tmp_path, "b/x.jpg")[1]["image_id"] == 1


def test_everything_of_an_evaluated_image(results):
    record = collect(results, "6.jpg")
    assert record.split == "val"
    assert record.cls_affinity.shape == (10, 15)
    assert [row["cluster"] for row in record.masks] == [2]
    assert [row["score"] for row in record.candidates] == [pytest.approx(0.86), pytest.approx(0.2)]
    assert record.confident == {1}
    assert list(record.steps) == ["initial_masks", "mask_rcnn", "segmentation"]
    truth = record.ground_truth
    assert set(np.unique(truth)) == {0, 1, 255}
    np.testing.assert_array_equal(record.steps["segmentation"] == 2, truth == 1)
    assert record.metrics["class_names"] == ["background", "cat", "dog"]


def test_masks_have_the_pseudo_classes_of_named_clusters(results, tmp_path):
    shutil.copytree(results, tmp_path / "copy")
    path = tmp_path / "copy/results/tiny/seed-0/val/initial_label_maps/0001.parquet"
    metadata = shards.read_metadata(path)
    metadata["settings"]["curation"]["classes"] = [1, 0]
    shards.write_table(path, "label_maps", list(shards.read_rows(path)), metadata)
    # Cluster 2 was dropped.
    assert [row["cluster"] for row in collect(tmp_path / "copy", "6.jpg").masks] == [0]


def test_the_search_is_the_one_that_made_the_masks(results):
    for name in ("0.jpg", "3.jpg", "6.jpg"):
        record = collect(results, name)
        for search, row in zip(record.searches, record.masks, strict=True):
            assert search.source == (row["source_row"], row["source_col"])
            assert len(search.voters) == row["proposals"]
            assert set(search.voters) <= set(search.proposals)
        assert record.searches[0].source == divmod(int(record.cls_affinity.argmax()), 15)
        assert len(record.searches[0].proposals) == 45  # top_k of 150 patches


def test_a_training_image_has_clusters_but_no_ground_truth(results):
    record = collect(results, "0.jpg")
    assert [row["cluster"] for row in record.masks] == [2]
    assert record.ground_truth is None
    assert list(record.steps) == ["mask_rcnn"]


def test_an_image_without_candidates(results):
    record = collect(results, results_tree.WITHOUT_CANDIDATE)
    assert record.candidates == []
    assert record.confident == frozenset()


def test_a_run_that_has_only_begun(results, tmp_path):
    for stage in ("images", "features"):
        shutil.copytree(
            results / "results" / "tiny" / "train" / stage, tmp_path / "tiny" / "train" / stage
        )
    split, row = image_record.find_image(tmp_path / "tiny", "1.jpg")
    record = image_record.collect(tmp_path / "tiny", split, row, tmp_path, None)
    assert record.cls_affinity.shape == (10, 15)
    assert (record.masks, record.searches, record.steps) == ([], [], {})


def test_an_unknown_seed(results):
    with pytest.raises(InputError, match="no results of the seed 5; existing seeds: 0"):
        collect(results, "6.jpg", seed="5")


def test_a_tree_is_found_from_anything_in_it(tree, tmp_path):
    inside = tree / "seed-0" / "val" / "candidates" / "0000.parquet"
    assert image_record.results_tree(inside) == image_record.results_tree(tree) == tree
    with pytest.raises(InputError, match="not in a folder of results"):
        image_record.results_tree(tmp_path)


def test_the_root_is_what_the_config_says(results, tree):
    folder = results / "config" / "datasets"
    assert (
        image_record.dataset_root(tree, "val", [Path("none"), folder]) == results / "data" / "tiny"
    )
    with pytest.raises(InputError, match="give it as --root"):
        image_record.dataset_root(tree, "val", [Path("none")])


def test_linear_probes_of_all_rounds(results, tmp_path):
    copied = shutil.copytree(results, tmp_path / "copy")
    base = copied / "results" / "tiny" / "seed-0"
    shutil.copytree(base / "val" / "label_maps", base / "round-0" / "val" / "linear_probe")
    shutil.copytree(base / "val" / "label_maps", base / "round-1" / "val" / "linear_probe_crf")
    record = collect(copied, "6.jpg")
    segmented = ["initial_masks", "mask_rcnn", "segmentation"]
    assert list(record.steps) == [*segmented, "linear_probe", "linear_probe_round_1_crf"]
    for step in ("linear_probe", "linear_probe_round_1_crf"):
        np.testing.assert_array_equal(record.steps[step], record.steps["mask_rcnn"])


def test_the_root_is_that_of_an_extended_config(tmp_path):
    (tmp_path / "base.yaml").write_text("dataset: { root: /data/base, adapter: folder }\n")
    (tmp_path / "mine.yaml").write_text("extends: base\ndataset: { ground_truth: false }\n")
    assert image_record.dataset_root(Path("results/mine"), "val", [tmp_path]) == Path("/data/base")
    with pytest.raises(InputError, match=r"no other\.yaml .* give it as --root"):
        image_record.dataset_root(Path("results/other"), "val", [tmp_path])


def test_an_image_of_several_splits_is_found_where_most_is_known(tmp_path):
    row = {"image_id": 1, "file_name": "x.jpg", "shard": 0, "status": "ok"}
    for split in ("instances", "train", "val"):
        shards.write_table(tmp_path / split / "images" / "0000.parquet", "images", [row], {})
    assert image_record.find_image(tmp_path, "x.jpg")[0] == "val"
    shutil.rmtree(tmp_path / "val")
    assert image_record.find_image(tmp_path, "x.jpg")[0] == "train"
    # Where the path says which split is meant, it is that one.
    inside = tmp_path / "instances" / "images"
    assert image_record.find_image(tmp_path, "x.jpg", inside)[0] == "instances"


def test_new_images_that_the_models_were_applied_to(results, tmp_path):
    copied = shutil.copytree(results, tmp_path / "copy")
    tree = copied / "results" / "tiny"
    new = tree / "applied" / "new photos"
    shutil.copytree(tree / "val" / "images", new / "images")
    for stage in ("candidates", "confident"):
        shutil.copytree(tree / "seed-0/val" / stage, tree / "seed-0/applied/new photos" / stage)
    predictions = "round-0/val/predictions", "round-0/applied/new photos/predictions"
    shutil.copytree(*(tree / "seed-0" / folder for folder in predictions))
    assert image_record.results_tree(new / "images") == tree
    assert image_record.find_image(tree, "6.jpg")[0] == "val"
    split, row = image_record.find_image(tree, "6.jpg", new)
    assert split == "applied/new photos"
    with pytest.raises(InputError, match="give the folder of these new images as --root"):
        image_record.dataset_root(tree, split, [])
    record = image_record.collect(tree, split, row, results / "data" / "tiny", None)
    assert [row["score"] for row in record.candidates] == pytest.approx([0.86, 0.2])
    assert list(record.steps) == ["segmentation"]
    assert record.ground_truth is None
