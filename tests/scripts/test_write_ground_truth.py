import json

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.write_ground_truth import main

DATASET = {"adapter": "voc", "ground_truth": True, "classes": ["cat"], "splits": {"train": "train"}}


def call(root, dataset=DATASET):
    options = [f"--root={root}", "--split=train", f"--images={root}/images.parquet"]
    options += [f"--output={root}/ground_truth.parquet"]
    return main([*options, "--settings", json.dumps({"dataset": dataset})])


@pytest.fixture
def root(tmp_path, write_manifest):
    images = {i: (f"JPEGImages/{i}.jpg", 8, 9) for i in (3, 1)}
    write_manifest(tmp_path / "images.parquet", images | {2: ("bad.jpg", 0, 0, "empty file")})
    (tmp_path / "SegmentationClass").mkdir()
    for i in (1, 3):
        labels = np.full((8, 9), i // 3, np.uint8)
        labels[0] = 255
        Image.fromarray(labels).save(tmp_path / "SegmentationClass" / f"{i}.png")
    return tmp_path


def test_label_maps_of_the_readable_images(root):
    assert call(root) == 0
    found = list(label_maps.read_shard(root / "ground_truth.parquet"))
    assert [(image_id, name) for image_id, name, _ in found] == [
        (3, "JPEGImages/3.jpg"),
        (1, "JPEGImages/1.jpg"),
    ]
    for image_id, _, labels in found:
        assert (labels[0] == 255).all()
        assert (labels[1:] == image_id // 3).all()
    assert shards.read_metadata(root / "ground_truth.parquet")["stage"] == "ground_truth"


def test_missing_labels_are_an_error(root):
    (root / "SegmentationClass" / "3.png").unlink()
    with pytest.raises(InputError, match=r"3\.png: no such label map"):
        call(root)
    with pytest.raises(InputError, match="no ground truth"):
        call(root, DATASET | {"ground_truth": False})
    assert not (root / "ground_truth.parquet").exists()


def test_labels_of_another_size_than_their_image_are_an_error(root):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(root / "SegmentationClass" / "1.png")
    message = r"1\.jpg: labels of 9 x 8 px, but the image has 8 x 9; correct the labels"
    with pytest.raises(InputError, match=message):
        call(root)
    assert not (root / "ground_truth.parquet").exists()
