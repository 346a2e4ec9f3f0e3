import json

import numpy as np
from pycocotools.coco import COCO

from workflow_scripts import write_results
from workflow_scripts.maskdistill import masks, shards


def call(tmp_path, *parts):
    paths = []
    for number, rows in enumerate(parts):
        paths.append(str(tmp_path / f"{number}.parquet"))
        shards.write_table(paths[-1], "candidates", rows, {})
    output = tmp_path / "results.json"
    assert write_results.main(["--settings={}", "--candidates", *paths, f"--output={output}"]) == 0
    return json.loads(output.read_text())


def candidate(image_id, candidate_id, score):
    mask = np.random.default_rng(image_id + candidate_id).random((8, 6)) < 0.5
    row = {"image_id": image_id, "candidate_id": candidate_id, "cluster": 3, "score": score}
    return {**row, **masks.encode(mask)._asdict()}


def test_pycocotools_reads_the_list(tmp_path):
    found = call(
        tmp_path,
        [candidate(5, 0, 0.75), {"image_id": 6}, candidate(5, 1, 0.5)],
        [candidate(9, 0, 1)],
    )
    assert [(r["image_id"], r["category_id"], r["score"]) for r in found] == [
        (5, 3, 0.75),
        (5, 3, 0.5),
        (9, 3, 1.0),
    ]
    images = [{"id": i, "height": 8, "width": 6, "file_name": ""} for i in (5, 6, 9)]
    truth = {"images": images, "categories": [{"id": 3, "name": "x"}], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "info": {}}))
    results = COCO(tmp_path / "truth.json").loadRes(str(tmp_path / "results.json"))
    (annotation,) = results.loadAnns(results.getAnnIds(imgIds=[9]))
    mask = np.random.default_rng(9).random((8, 6)) < 0.5
    np.testing.assert_array_equal(results.annToMask(annotation), mask)


def test_no_candidate_anywhere(tmp_path):
    assert call(tmp_path, [{"image_id": 6}], []) == []
