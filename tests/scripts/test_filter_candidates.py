import json

import numpy as np
import pytest

from workflow_scripts import filter_candidates
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, masks, shards

SIZE = (9, 13)


def candidate(image_id, candidate_id, score, cluster, y0, x0):
    mask = np.zeros(SIZE, bool)
    mask[y0 : y0 + 5, x0 : x0 + 5] = True
    row = {"image_id": image_id, "candidate_id": candidate_id, "cluster": cluster, "score": score}
    return {**row, **masks.encode(mask)._asdict()}


CANDIDATES = [
    candidate(5, 0, 0.97, 1, 0, 0),
    candidate(5, 1, 0.99, 2, 2, 2),
    candidate(5, 2, 0.40, 3, 4, 8),
    candidate(2, 0, 0.10, 3, 0, 0),
    candidate(2, 1, 0.30, 4, 1, 1),
    {"image_id": 7},
]


@pytest.fixture
def call(tmp_path, write_manifest):
    def run(threshold=0.9, rows=CANDIDATES, keep_best=True, overlap=1):
        entries = {i: (f"{i}.jpg", *SIZE) for i in (2, 5, 7)}
        entries[9] = ("bad.jpg", None, None, "empty file")
        manifest = write_manifest(tmp_path / "images", entries)
        shards.write_table(tmp_path / "candidates", "candidates", rows, {})
        settings = {
            "confidence": {"threshold": threshold, "keep_best": keep_best, "overlap": overlap},
            "clustering": {"clusters": 4},
        }
        options = [f"--settings={json.dumps(settings)}", f"--images={manifest}"]
        options += [f"--candidates={tmp_path / 'candidates'}"]
        options += [f"--confident={tmp_path / 'confident'}", f"--label-maps={tmp_path / 'maps'}"]
        assert filter_candidates.main(options) == 0
        kept = [
            (row["image_id"], row["candidate_id"])
            for row in shards.read_rows(tmp_path / "confident")
        ]
        return kept, {i: labels for i, _, labels in label_maps.read_shard(tmp_path / "maps")}

    return run


def test_confident_candidates_and_their_label_maps(call, tmp_path):
    kept, maps = call()
    assert kept == [(2, 1), (5, 1), (5, 0), (7, None)]
    assert list(maps) == [2, 5, 7]
    expected = np.zeros(SIZE, np.uint8)
    expected[0:5, 0:5], expected[2:7, 2:7] = 1, 2
    np.testing.assert_array_equal(maps[5], expected)
    assert set(np.unique(maps[2])) == {0, 4}
    assert not maps[7].any()
    stages = [shards.read_metadata(tmp_path / name)["stage"] for name in ("confident", "maps")]
    assert stages == ["confident", "label_maps"]


def test_the_threshold_decides(call):
    kept, maps = call(threshold=0.35)
    assert kept == [(2, 1), (5, 1), (5, 0), (5, 2), (7, None)]
    assert set(np.unique(maps[5])) == {0, 1, 2, 3}


def test_an_image_without_a_confident_candidate_may_have_no_object(call):
    kept, maps = call(keep_best=False)
    assert kept == [(2, None), (5, 1), (5, 0), (7, None)]
    assert not maps[2].any()


def test_one_object_is_not_kept_as_two_classes(call):
    # Candidates 0 and 1 of image 5 share 9 of 41 pixels, an IoU of 0.22.
    kept, maps = call(overlap=0.2)
    assert kept == [(2, 1), (5, 1), (7, None)]
    assert set(np.unique(maps[5])) == {0, 2}
    assert call(overlap=0.25)[0] == call()[0]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_suppression_does_not_depend_on_the_order_of_the_rows(call, order):
    """The first candidate suppresses the second, which then must not suppress the third."""
    chain = [
        candidate(5, 0, 0.99, 1, 0, 0),
        candidate(5, 1, 0.98, 2, 0, 2),
        candidate(5, 2, 0.97, 3, 0, 4),
    ]
    others = [candidate(2, 0, 0.95, 3, 0, 0), {"image_id": 7}]
    first, *rest = (chain[number] for number in order)
    kept, _ = call(rows=[first, *others, *rest], overlap=0.3)
    assert kept == [(2, 0), (5, 0), (5, 2), (7, None)]


def test_a_lost_image_is_an_error(call, tmp_path):
    with pytest.raises(InputError, match=r"candidates: .*missing ids: \[7\]"):
        call(rows=CANDIDATES[:-1])
    assert not (tmp_path / "confident").exists()
    assert not (tmp_path / "maps").exists()
