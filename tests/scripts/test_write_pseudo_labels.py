import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from workflow_scripts import write_pseudo_labels
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import cluster_files, masks, shards

SIZE = (9, 13)
SETTINGS = {
    "clustering": {"clusters": 4},
    "curation": {"classes": None},
}


def draw(seed):
    return np.random.default_rng(seed).random(SIZE) < 0.4


@pytest.fixture
def call(tmp_path, write_manifest):
    parts = [
        {5: ("z.jpg", *SIZE), 8: ("a.jpg", *SIZE)},
        {2: ("m.jpg", *SIZE), 3: ("bad.jpg", None, None, "empty file")},
    ]
    for number, part in enumerate(parts):
        write_manifest(tmp_path / f"images-{number}", part)
    rows = [
        {"image_id": i, "mask_id": m, "status": "ok", **masks.encode(draw(i + m))._asdict()}
        for i, m in ((5, 1), (5, 0), (2, 0))
    ]
    rows.append({"image_id": 8, "mask_id": 0, "status": "empty mask"})
    shards.write_table(tmp_path / "masks-0", "masks", [rows[0], rows[1], rows[3]], {})
    shards.write_table(tmp_path / "masks-1", "masks", [rows[2]], {})
    clusters = {(5, 0): 4, (5, 1): 1, (2, 0): 2}
    cluster_files.write_assignments(
        tmp_path / "clusters", list(clusters), list(clusters.values()), [0.0] * 3, {}
    )

    def run(order=(0, 1), mask_parts=(0, 1), settings=SETTINGS, more=(), tolerated=(0.01, 2)):
        options = [f"--settings={json.dumps(settings)}", "--images"]
        options += [str(tmp_path / f"images-{n}") for n in order]
        options += ["--max-rejected", *map(str, tolerated)]
        options += ["--masks", *(str(tmp_path / f"masks-{n}") for n in mask_parts)]
        options += [f"--assignments={tmp_path / 'clusters'}", f"--output={tmp_path / 'a.json'}"]
        assert write_pseudo_labels.main([*options, *more]) == 0
        return (tmp_path / "a.json").read_bytes()

    return run


def test_a_coco_dataset_of_all_readable_images(call, tmp_path):
    call()
    dataset = COCO(tmp_path / "a.json")
    assert [image["file_name"] for image in dataset.dataset["images"]] == [
        "a.jpg",
        "m.jpg",
        "z.jpg",
    ]
    found = {}
    for annotation in dataset.loadAnns(dataset.getAnnIds()):
        found.setdefault(annotation["image_id"], []).append(annotation)
    assert {i: [a["category_id"] for a in a_list] for i, a_list in found.items()} == {
        2: [2],
        5: [4, 1],
    }
    for mask_id, annotation in enumerate(found[5]):
        np.testing.assert_array_equal(dataset.annToMask(annotation), draw(5 + mask_id))
    assert [c["name"] for c in dataset.loadCats(dataset.getCatIds())] == [
        f"cluster_00{n}" for n in (1, 2, 3, 4)
    ]


def test_the_order_of_shards_does_not_matter(call):
    assert call() == call(order=(1, 0), mask_parts=(1, 0))


def test_a_lost_shard_of_masks_is_an_error(call, tmp_path):
    with pytest.raises(InputError, match=r"the masks: .*missing ids: \[2\]"):
        call(mask_parts=(0,))
    with pytest.raises(InputError, match=r"the masks: .*unexpected ids: \[2\]"):
        call(order=(0,))
    assert not (tmp_path / "a.json").exists()


def test_too_many_rejected_images(call):
    with pytest.raises(InputError, match=r"1 of 4 images .*bad\.jpg: empty file"):
        call(tolerated=(0.2, 0))


def test_merged_clusters_are_one_category_and_dropped_ones_none(call, tmp_path):
    settings = {**SETTINGS, "clustering": {"clusters": 2}, "curation": {"classes": [1, 0, 2, 1]}}
    call(settings=settings)
    dataset = COCO(tmp_path / "a.json")
    assert len(dataset.imgs) == 3
    assert [(a["image_id"], a["category_id"]) for a in dataset.dataset["annotations"]] == [
        (5, 1),
        (5, 1),
    ]
    assert [c["name"] for c in dataset.loadCats(dataset.getCatIds())] == [
        "cluster_001+cluster_004",
        "cluster_003",
    ]


def test_clusters_that_nobody_looked_at_are_an_error(call, tmp_path):
    digest = cluster_files.assignments_digest(tmp_path / "clusters")
    call(more=[f"--expected-assignments={digest}"])
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputError, match="the clusters"):
        call(more=["--expected-assignments=0123456789abcdef"])
    assert not (tmp_path / "a.json").exists()
