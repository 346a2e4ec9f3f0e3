import json

import numpy as np
import pytest

from workflow_scripts import paint_masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import cluster_files, label_maps, masks, shards

SIZE = (9, 13)


def square(y0, x0, side=5):
    mask = np.zeros(SIZE, bool)
    mask[y0 : y0 + side, x0 : x0 + side] = True
    return mask


def write_masks(path, found):
    rows = []
    for (image_id, mask_id), mask in found.items():
        row = {"image_id": image_id, "mask_id": mask_id}
        if mask is None:
            rows.append({**row, "status": "empty mask"})
        else:
            rows.append({**row, **masks.encode(mask)._asdict(), "status": "ok"})
    shards.write_table(path, "masks", rows, {})


@pytest.fixture
def call(tmp_path, write_manifest):
    def run(found, clusters_of, clusters=20, classes=None):
        entries = {i: (f"sub/{i}.jpg", *SIZE) for i in (5, 2, 7)}
        entries[9] = ("bad.jpg", None, None, "empty file")
        manifest = write_manifest(tmp_path / "images", entries)
        write_masks(tmp_path / "masks", found)
        cluster_files.write_assignments(
            tmp_path / "clusters",
            list(clusters_of),
            list(clusters_of.values()),
            [0.0] * len(clusters_of),
            {},
        )
        settings = {"clustering": {"clusters": clusters}, "curation": {"classes": classes}}
        options = [f"--settings={json.dumps(settings)}"]
        options += [f"--images={manifest}", f"--masks={tmp_path / 'masks'}"]
        options += [f"--assignments={tmp_path / 'clusters'}", f"--output={tmp_path / 'out'}"]
        assert paint_masks.main(options) == 0
        return {i: (name, labels) for i, name, labels in label_maps.read_shard(tmp_path / "out")}

    return run


def test_masks_are_painted_with_their_clusters_and_the_first_is_on_top(call):
    first, second, third = square(0, 0), square(3, 3), square(2, 6)
    found = {(2, 0): first, (2, 1): second, (7, 0): third, (5, 0): None}
    # The assignments may contain masks of other shards, here that of image 44.
    result = call(found, {(2, 1): 17, (2, 0): 20, (7, 0): 1, (44, 0): 3})
    assert list(result) == [5, 2, 7]
    assert result[2][0] == "sub/2.jpg"
    np.testing.assert_array_equal(result[2][1], np.where(first, 20, np.where(second, 17, 0)))
    np.testing.assert_array_equal(result[7][1], third * 1)
    assert result[5][1].shape == SIZE
    assert not result[5][1].any()


def test_many_clusters_take_16_bits(call):
    found = {(2, 0): square(0, 0), (5, 0): None, (7, 0): None}
    labels = call(found, {(2, 0): 300}, clusters=300)[2][1]
    assert labels.dtype == np.uint16
    assert labels.max() == 300


def test_a_lost_image_is_an_error(call, tmp_path):
    with pytest.raises(InputError, match=r"masks: .*missing ids: \[7\]"):
        call({(2, 0): square(0, 0), (5, 0): None}, {(2, 0): 1})
    assert not (tmp_path / "out").exists()


def test_dropped_clusters_hide_nothing_and_merged_ones_are_one(call):
    first, second, third = square(0, 0), square(3, 3), square(2, 6)
    found = {(2, 0): first, (2, 1): second, (7, 0): third, (5, 0): None}
    result = call(found, {(2, 0): 2, (2, 1): 1, (7, 0): 4}, 2, [1, 0, 2, 1])
    np.testing.assert_array_equal(result[2][1], np.where(second, 1, 0))
    np.testing.assert_array_equal(result[7][1], np.where(third, 1, 0))
