import json

import numpy as np
import pytest

from workflow_scripts import score_masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import cluster_files, masks, shards

SIZE = (20, 30)


def mask(image_id, mask_id, quality, rows):
    area = np.zeros(SIZE, bool)
    area[:rows] = True
    encoded = masks.encode(area)._asdict()
    return {
        **{"image_id": image_id, "mask_id": mask_id, "quality": quality, "share": rows / 20},
        **encoded,
        **{"height": SIZE[0], "width": SIZE[1], "status": "ok"},
    }


MASKS = [
    mask(0, 0, 0.25, 5),
    mask(0, 1, 0.5, 10),
    mask(1, 0, 0.75, 4),
    {"image_id": 2, "mask_id": 0, "status": "no proposal"},
]
CLUSTERS = {(0, 0): 1, (0, 1): 2, (1, 0): 3}


@pytest.fixture
def call(tmp_path, write_manifest):
    def run(rows=MASKS, classes=None):
        listed = {n: (f"{n}.png", *SIZE) for n in range(3)} | {9: ("bad", None, None, "empty file")}
        write_manifest(tmp_path / "images", listed)
        shards.write_table(tmp_path / "masks", "masks", rows, {})
        cluster_files.write_assignments(
            tmp_path / "assignments", list(CLUSTERS), list(CLUSTERS.values()), [0.0] * 3, {}
        )
        options = [f"--{name}={tmp_path / name}" for name in ("images", "masks", "assignments")]
        settings = {"curation": {"classes": classes}}
        options += [f"--settings={json.dumps(settings)}", f"--output={tmp_path / 'candidates'}"]
        assert score_masks.main(options) == 0
        return list(shards.read_rows(tmp_path / "candidates"))

    return run


def test_masks_become_candidates_with_their_quality_as_score(call):
    rows = call()
    found = [(row["image_id"], row["candidate_id"], row["cluster"], row["score"]) for row in rows]
    assert found == [(0, 0, 2, 0.5), (0, 1, 1, 0.25), (1, 0, 3, 0.75), (2, None, None, None)]
    assert masks.decode_row(rows[0]).sum() == 10 * 30
    assert (rows[0]["area"], rows[0]["box_height"]) == (300, 10)


def test_merged_and_dropped_clusters(call):
    rows = call(classes=[1, 0, 1])
    found = [(row["image_id"], row["cluster"]) for row in rows]
    assert found == [(0, 1), (1, 1), (2, None)]


def test_masks_of_other_images_are_an_error(call):
    with pytest.raises(InputError, match="missing"):
        call(rows=MASKS[:2])
