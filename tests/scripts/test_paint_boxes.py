import json

import numpy as np
import pytest
from PIL import Image

from workflow_scripts import paint_boxes
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, masks, shards

SIZE = (40, 60)


def disc(y, x, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture
def call(tmp_path, write_manifest):
    """A function that paints candidates, (image id, mask, cluster, score), in two images."""
    noise = np.random.default_rng(0).integers(0, 20, (*SIZE, 3))
    for i in (1, 2):
        image = np.where(disc(20, 30, 10)[..., None], (210, 10, 10), (10, 10, 180)) + noise
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{i}.png")

    def run(candidates, *options):
        entries = {i: (f"{i}.png", *SIZE) for i in (1, 2)} | {9: ("x", None, None, "empty file")}
        manifest = write_manifest(tmp_path / "images", entries)
        rows = [
            {
                "image_id": image_id,
                "candidate_id": i,
                "cluster": cluster,
                "score": score,
                **masks.encode(mask)._asdict(),
            }
            for i, (image_id, mask, cluster, score) in enumerate(candidates)
        ]
        if 2 not in {row["image_id"] for row in rows}:
            rows.append({"image_id": 2, "height": SIZE[0], "width": SIZE[1]})
        shards.write_table(tmp_path / "confident", "confident", rows, {})
        arguments = ["--settings", json.dumps({"clustering": {"clusters": 5}})]
        arguments += [f"--root={tmp_path}", f"--images={manifest}"]
        arguments += [f"--confident={tmp_path / 'confident'}", f"--output={tmp_path / 'out'}"]
        assert paint_boxes.main([*arguments, *options]) == 0
        return {i: labels for i, _, labels in label_maps.read_shard(tmp_path / "out")}

    return run


def test_boxes_are_painted_and_the_more_confident_one_is_on_top(call):
    found = call([(1, disc(15, 20, 6), 3, 0.9), (1, disc(20, 24, 6), 5, 0.8)])
    expected = np.zeros(SIZE, int)
    expected[14:27, 18:31] = 5
    expected[9:22, 14:27] = 3
    np.testing.assert_array_equal(found[1], expected)
    assert found[2].shape == SIZE
    assert not found[2].any()


def test_grabcut_cuts_the_object_out(call):
    found = call([(1, disc(20, 30, 12), 4, 0.9)], "--grabcut")
    target = disc(20, 30, 10)
    cut = found[1] == 4
    assert (cut & target).sum() / (cut | target).sum() > 0.95
    assert set(np.unique(found[1])) == {0, 4}
    assert not found[2].any()


def test_a_missing_image_is_an_error(call):
    with pytest.raises(InputError, match=r"confident: .*missing ids: \[1\]"):
        call([(2, disc(9, 9, 5), 1, 0.9)])
