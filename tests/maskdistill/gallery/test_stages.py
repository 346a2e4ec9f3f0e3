import dataclasses

import numpy as np
import pytest

from tests import results_tree
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.gallery.stage_files import records
from workflow_scripts.maskdistill.gallery.stages import Stages


@pytest.fixture
def by_name(inputs):
    return {record.image["file_name"]: record for record in records(inputs)}


def test_label_maps_of_all_stages_in_their_order(inputs, by_name):
    stages = Stages(inputs)
    assert stages.evaluated == "val"
    layers = stages.layers(by_name["JPEGImages/6.jpg"])
    assert list(layers) == list(stages)
    truth = label_maps.without_ignore(layers["ground_truth"])
    assert layers["ground_truth"].max() == label_maps.IGNORE
    # Cluster 2 is class 1 here, and the evaluation ignores the object's first row.
    np.testing.assert_array_equal(layers["segmentation"] == 2, truth == 1)
    assert set(np.unique(layers["candidates"])) == {0, 1, 2}  # the weak one, too
    assert set(np.unique(layers["mask_rcnn"])) == {0, 2}
    # Training images have neither a segmentation nor, for the gallery, a ground truth.
    trained = stages.layers(by_name["JPEGImages/3.jpg"])
    assert list(trained) == ["masks", "candidates", "mask_rcnn"]


def test_clusters_wear_the_colours_of_their_classes(inputs):
    stages = Stages(inputs)
    cat, dog = stages.described("ground_truth")["labels"]
    first, second = stages.described("segmentation")["labels"]
    assert (first["class"], second["class"]) == ("dog", "cat")
    assert (first["colour"], second["colour"]) == (dog["colour"], cat["colour"])
    assert stages.described("mask_rcnn")["title"] == "Mask R-CNN"


def test_agreement_is_of_the_classes_of_the_image(inputs, by_name):
    stages = Stages(inputs)
    perfect = stages.agreement(stages.layers(by_name["JPEGImages/6.jpg"]))
    assert perfect["segmentation"] == 1
    assert 0.5 < perfect["masks"] < 1
    assert "candidates" not in perfect  # weak ones among them: nothing that is evaluated
    missed = stages.agreement(stages.layers(by_name[results_tree.WITHOUT_CANDIDATE]))
    # Nothing found: background is right where it is, and the class is missed.
    truth = 19 * 28 / (40 * 60 - 28)
    assert missed["mask_rcnn"] == pytest.approx((1 - truth) / 2, abs=1e-4)
    assert stages.agreement(stages.layers(by_name["JPEGImages/0.jpg"])) == {}


def test_names_and_merges(inputs):
    curation = {"classes": [2, 1], "names": ["<bird>", "cluster_002"]}
    named = dataclasses.replace(inputs, settings=inputs.settings | {"curation": curation})
    stages = Stages(named)
    labels = stages.described("masks")["labels"]
    assert [label["name"] for label in labels] == ["<bird>", "cluster 2"]
    layers = [stages.layers(r) for r in records(named) if r.image["file_name"][-5:] == "6.jpg"]
    assert set(np.unique(layers[0]["masks"])) == {0, 1}  # cluster 2 is pseudo-class 1 here


def test_without_metrics_no_label_is_read(inputs, monkeypatch):
    def forbidden(*_):
        raise AssertionError("labels are read")

    monkeypatch.setattr("workflow_scripts.maskdistill.gallery.stages.GroundTruth", forbidden)
    stages = Stages(dataclasses.replace(inputs, metrics=None))
    assert stages.evaluated is None
    assert "ground_truth" not in list(stages)
    colours = [label["colour"] for label in stages.described("masks")["labels"]]
    assert colours == ["#800000", "#008000"]
