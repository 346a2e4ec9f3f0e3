import json

import numpy as np
from PIL import Image

from workflow_scripts import make_demo_dataset
from workflow_scripts.maskdistill.demo import scenes, things
from workflow_scripts.maskdistill.files import provenance


def test_the_tree_is_marked_as_complete_at_the_end(tmp_path):
    settings = {"dataset": {"generate": {"train": 3, "val": 2, "seed": 4}}}
    marker = tmp_path / "data" / "complete.json"
    arguments = ["--settings", json.dumps(settings), "--output", str(marker)]
    assert make_demo_dataset.main(arguments) == 0
    content = json.loads(marker.read_text())
    assert provenance.read(marker) == content.pop("provenance")
    assert content == {"train": 3, "val": 2, "seed": 4, "classes": list(things.CLASS_NAMES)}
    assert len(list((marker.parent / "JPEGImages").iterdir())) == 5
    with Image.open(marker.parent / "SegmentationClass" / "val_00001.png") as image:
        expected = scenes.scene(4, "val", 1).classes
        np.testing.assert_array_equal(np.asarray(image), expected)
