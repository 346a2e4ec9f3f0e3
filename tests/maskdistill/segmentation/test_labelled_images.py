from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.maskdistill.segmentation.test_learning import TINY, write_images
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX
from workflow_scripts.maskdistill.segmentation.labelled_images import LabelledImages
from workflow_scripts.maskdistill.segmentation.transforms import draw_view, warp
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.sampling import Sample


def read_dataset(shard: Path, **changes) -> LabelledImages:
    settings = SegmentationSettings.read(TINY | changes)
    return LabelledImages([shard], shard.parent, clusters=2, settings=settings, seed=0, workers=2)


def test_images_without_any_label_are_left_out(tmp_path):
    shard = write_images(tmp_path, count=4)
    rows = list(shards.read_rows(shard))
    ignored = np.full((40, 44), 255, np.uint8)
    for number in (1, 2):
        rows[number] = label_maps.row(number, f"{number}.png", ignored)
    shards.write_table(shard, "label_maps", rows, {})
    data = read_dataset(shard)
    assert len(data) == 2
    for index in range(2):
        _, labels = data[Sample(0, 0, index)]
        assert (labels != IGNORE_INDEX).any()
    shards.write_table(shard, "label_maps", [rows[1]], {})
    with pytest.raises(InputError, match="no image has a label"):
        read_dataset(shard)


def test_a_view_depends_on_its_place_in_the_plan_alone(tmp_path):
    data = read_dataset(write_images(tmp_path, count=3))
    first, again = data[Sample(4, 1, 2)], data[Sample(4, 1, 2)]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].dtype == torch.uint8
    assert first[1].dtype == torch.int64
    assert not torch.equal(first[0], data[Sample(5, 1, 2)][0])


def test_16_bit_label_maps_have_their_own_value_for_ignore(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    labels = np.full((40, 40), 300, np.uint16)
    labels[:20] = 65535
    labels[:10] = 255
    shard = tmp_path / "label_maps.parquet"
    shards.write_table(shard, "label_maps", [label_maps.row(1, "a.png", labels)], {})
    options = {"crop_size": 40, "scale": [1, 1], "rotation": 0, "flip": False}
    data = LabelledImages(
        [shard], tmp_path, clusters=300, settings=SegmentationSettings.read(TINY | options), seed=0
    )
    expected = labels.astype(int)
    expected[expected == 65535] = IGNORE_INDEX
    np.testing.assert_array_equal(data[Sample(0, 0, 0)][1], expected)


def test_photographs_above_the_working_resolution_are_resized_with_their_labels(tmp_path):
    """Crops are taken from the resized image. Resizing must not mix two labels to a third one."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = coarse.resize((320, 240), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.png")
    labels = np.zeros((240, 320), np.uint8)
    labels[:120], labels[120:, 200:] = 200, 255
    shard = tmp_path / "label_maps.parquet"
    shards.write_table(shard, "label_maps", [label_maps.row(1, "a.png", labels)], {})
    options = {"crop_size": 80, "scale": [1, 1], "rotation": 0, "flip": False, "longer_side": 80}
    data = LabelledImages(
        [shard], tmp_path, clusters=200, settings=SegmentationSettings.read(TINY | options), seed=0
    )
    small = np.zeros((60, 80), np.int32)
    small[:30], small[30:, 50:] = 200, IGNORE_INDEX
    resized = np.asarray(picture.resize((80, 60), Image.Resampling.BICUBIC))
    view = draw_view(
        small.shape,
        Sample(0, 0, 0).generator(0),
        **{name: options[name] for name in ("crop_size", "scale", "rotation", "flip")},
    )
    for found, expected in zip(data[Sample(0, 0, 0)], warp(resized, small, view, 80), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_label_beyond_the_clusters_is_an_error(tmp_path):
    shard = write_images(tmp_path, count=2)
    settings = SegmentationSettings.read(TINY)
    with pytest.raises(InputError, match=r"1\.png: label 2, but there are 1 clusters"):
        LabelledImages([shard], tmp_path, clusters=1, settings=settings, seed=0)
