import numpy as np
import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.pictures.step_colours import step_colours


def metrics(**mappings):
    """metrics.json of two classes and three clusters, as far as colours need it."""
    return {
        "class_names": ["background", "cat", "dog"],
        "clusters": 3,
        "steps": {step: {"matching": {"clusters": found}} for step, found in mappings.items()},
    }


def test_clusters_wear_the_colour_of_their_class():
    found = metrics(
        initial_masks={"0": "background", "1": "dog", "2": None, "3": "cat"},
        segmentation={"0": "background", "1": "dog", "2": "dog", "3": "background"},
    )
    colours = step_colours(["initial_masks", "segmentation"], 3, found)
    first, second = colours["initial_masks"].colours, colours["segmentation"].colours
    palette = label_maps.PALETTE
    np.testing.assert_array_equal(first[[0, 1, 3]], palette[[0, 2, 1]])
    assert not (palette[:3] == first[2]).all(axis=1).any()  # unmatched: no class's colour
    np.testing.assert_array_equal(second, palette[[0, 2, 2, 0]])
    assert colours["initial_masks"].classes == ["background", "dog", None, "cat"]


def test_without_ground_truth_every_cluster_has_its_own_colour():
    colours = step_colours(["segmentation"], 254, None)["segmentation"].colours
    assert len(np.unique(colours, axis=0)) == 255
    colours = step_colours(["segmentation"], 600, None)["segmentation"].colours
    assert len(colours) == 601
    assert not (colours[1:] == 0).all(axis=1).any()  # none looks like background


def test_metrics_without_a_step_are_an_error():
    found = metrics(initial_masks={str(i): None for i in range(4)})
    with pytest.raises(InputError, match="segmentation"):
        step_colours(["segmentation"], 3, found)
