import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from workflow_scripts import write_results
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks, shards


def call(tmp_path, *parts, bad=0):
    images = [{"image_id": n, "file_name": f"{n}.jpg", "status": "empty file"} for n in range(bad)]
    shards.write_table(tmp_path / "images.parquet", "images", images, {})
    paths = []
    for number, rows in enumerate(parts):
        paths.append(str(tmp_path / f"{number}.parquet"))
        shards.write_table(paths[-1], "candidates", rows, {})
    output = tmp_path / "results.json"
    options = [f"--images={tmp_path / 'images.parquet'}", "--max-rejected", "0.01", "2"]
    options += ["--candidates", *paths, f"--output={output}"]
    assert write_results.main(["--settings={}", *options]) == 0
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


def test_too_many_images_that_cannot_be_used(tmp_path):
    assert call(tmp_path, [{"image_id": 6}], bad=2) == []
    with pytest.raises(InputError, match=r"3 of 3 images .*0\.jpg: empty file"):
        call(tmp_path, [{"image_id": 6}], bad=3)
