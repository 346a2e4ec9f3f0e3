import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from workflow_scripts.maskdistill.files import coco_json, masks

BIG = 2**52 - 1  # an id of ours


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    return {(i, m): rng.random((11, 17)) < 0.3 for i, m in ((BIG, 0), (BIG, 1), (4, 0))}


def written(drawn, path):
    images = [
        {"image_id": BIG, "file_name": "a/ü.jpg", "height": 11, "width": 17},
        {"image_id": 4, "file_name": "b.jpg", "height": 11, "width": 17},
        {"image_id": 6, "file_name": "without.jpg", "height": 5, "width": 5},
    ]
    rows = [
        {"image_id": i, "mask_id": m, **masks.encode(mask)._asdict()}
        for (i, m), mask in drawn.items()
    ]
    assignments = {(BIG, 0): 12, (BIG, 1): 1, (4, 0): 3}
    names = coco_json.category_names(12, None)
    content = coco_json.dataset(images, rows, assignments, names, {"settings": {"a": 1}})
    path.write_text(json.dumps(content))
    return content


def test_pycocotools_reads_pseudo_labels(tmp_path, drawn):
    content = written(drawn, tmp_path / "a.json")
    dataset = COCO(tmp_path / "a.json")
    assert sorted(dataset.getImgIds()) == [4, 6, BIG]
    assert dataset.loadImgs(BIG)[0]["file_name"] == "a/ü.jpg"
    assert dataset.getCatIds() == list(range(1, 13))
    assert dataset.loadCats(7)[0]["name"] == "cluster_007"
    assert dataset.getAnnIds(imgIds=[6]) == []
    annotations = dataset.loadAnns(dataset.getAnnIds(imgIds=[BIG]))
    assert [a["category_id"] for a in annotations] == [12, 1]
    for annotation, mask in zip(annotations, list(drawn.values()), strict=False):
        np.testing.assert_array_equal(dataset.annToMask(annotation), mask)
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert annotation["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
        assert all(isinstance(value, float) for value in annotation["bbox"])
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == 3
    assert 0 not in ids  # COCOeval takes a match with id 0 for none
    assert content["info"]["settings"] == {"a": 1}


def test_pycocotools_reads_and_scores_results(tmp_path, drawn):
    written(drawn, tmp_path / "a.json")
    clusters = {(BIG, 0): 12, (BIG, 1): 1, (4, 0): 3}
    rows = [
        {
            "image_id": i,
            "candidate_id": m,
            "cluster": clusters[i, m],
            "score": 0.5,
            **masks.encode(mask)._asdict(),
        }
        for (i, m), mask in drawn.items()
    ]
    nothing = dict.fromkeys(rows[0]) | {"image_id": 6}
    entries = list(coco_json.results([*rows[:2], nothing, rows[2]]))
    assert len(entries) == 3
    (tmp_path / "results.json").write_text(json.dumps(entries))
    dataset = COCO(tmp_path / "a.json")
    results = dataset.loadRes(str(tmp_path / "results.json"))
    assert len(results.getAnnIds()) == 3
    evaluation = COCOeval(dataset, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_names_of_merged_categories_say_what_they_are_made_of():
    assert coco_json.category_names(2, None) == ["cluster_001", "cluster_002"]
    assert coco_json.category_names(2, [1, 0, 2, 1]) == ["cluster_001+cluster_004", "cluster_003"]
