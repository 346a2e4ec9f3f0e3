import dataclasses

import pytest

from tests import results_tree
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import cluster_files, provenance
from workflow_scripts.maskdistill.gallery.stage_files import (
    Assignments,
    check_shards,
    count_images,
    records,
)


def test_every_image_with_what_all_stages_have_of_it(inputs):
    found = list(records(inputs))
    assert [(r.split, r.image["file_name"]) for r in found] == [
        (split, name) for split, names in results_tree.NAMES.items() for name in names
    ]
    assert count_images(inputs) == len(found)
    by_name = {record.image["file_name"]: record for record in found}
    record = by_name[results_tree.EVIL]
    assert [row["cluster"] for row in record.masks] == [1]
    assert [row["score"] for row in record.candidates] == pytest.approx([0.81, 0.2])
    assert record.confident == {1}
    assert list(record.label_maps) == ["mask_rcnn", "segmentation"]
    rejected = by_name[results_tree.REJECTED]
    assert not [*rejected.masks, *rejected.candidates, *rejected.label_maps]


def test_the_row_of_an_image_without_candidates_is_none(inputs):
    (record,) = (
        r for r in records(inputs) if r.image["file_name"] == results_tree.WITHOUT_CANDIDATE
    )
    assert record.candidates == []
    assert record.confident == frozenset()


def test_shards_that_do_not_fit_together(inputs):
    check_shards(inputs)
    check_shards(dataclasses.replace(inputs, masks={}))  # a stage that there is not yet
    fewer = dict(inputs.masks) | {"train": inputs.masks["train"][:1]}
    with pytest.raises(InputError, match="masks of train: 1 shards, but 2 manifests"):
        check_shards(dataclasses.replace(inputs, masks=fewer))


def test_label_maps_of_other_images(inputs):
    swapped = {"val": {"segmentation": inputs.steps["val"]["segmentation"][::-1]}}
    with pytest.raises(InputError, match="images differ from the manifest's"):
        list(records(dataclasses.replace(inputs, steps=swapped)))


def test_assignments(tmp_path):
    keys, clusters, distances = [(7, 0), (5, 1), (5, 0)], [1, 2, 3], [0.5, 0.25, 0.75]
    path = tmp_path / "a.parquet"
    cluster_files.write_assignments(
        path, keys, clusters, distances, provenance.record("assignments", {})
    )
    plain = Assignments([path], None)
    assert plain.of(5, 1) == {"cluster": 2, "distance": 0.25}
    assert plain.of(7, 0) == {"cluster": 1, "distance": 0.5}
    nothing = {"cluster": None, "distance": None}
    assert plain.of(5, 2) == plain.of(6, 0) == plain.of(9, 0) == nothing
    # Clusters 1 and 3 are one, 2 was dropped.
    merged = Assignments([path], [1, 0, 1])
    assert [merged.of(*key)["cluster"] for key in keys] == [1, 0, 1]
    assert Assignments([], None).of(5, 0) == nothing
