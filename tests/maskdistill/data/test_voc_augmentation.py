import numpy as np
import pytest
from PIL import Image

from tests import miniatures
from workflow_scripts.maskdistill.data import voc_augmentation
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps


@pytest.fixture
def trees(tmp_path):
    """VOC with a (train) and v (val), SBD with a, b (train) and c, v (val)."""
    lists = {"train": ["a"], "val": ["v"]}
    files = miniatures.voc_files(2012, ["a", "v", "b", "c"], lists)
    files |= miniatures.sbd_files(["a", "b"], ["c", "v"])
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path / "VOCdevkit/VOC2012", tmp_path / "benchmark_RELEASE/dataset"


def test_the_list_is_both_less_the_validation_set(trees):
    assert voc_augmentation.augmented_names(*trees) == ["a", "b", "c"]


def test_a_mask_of_sbd(trees):
    labels = voc_augmentation.read_mask(trees[1] / "cls" / "b.mat")
    assert (labels.dtype, labels.shape) == (np.uint8, (miniatures.HEIGHT, miniatures.WIDTH))
    expected = miniatures.scene(1)[1]
    np.testing.assert_array_equal(labels, np.where(expected == 255, 0, expected))


def test_masks_as_palette_images(trees, tmp_path):
    voc, sbd = trees
    assert voc_augmentation.write_augmentation(voc, sbd, tmp_path / "out") == 3
    masks = tmp_path / "out" / "SegmentationClassAug"
    assert sorted(path.name for path in masks.iterdir()) == ["a.png", "b.png", "c.png"]
    # VOC's own mask, with its border, comes first.
    own = (voc / "SegmentationClass/a.png").read_bytes()
    assert (masks / "a.png").read_bytes() == own
    with Image.open(masks / "b.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[3 * 15 : 3 * 15 + 3] == label_maps.PALETTE[15].tolist()
    np.testing.assert_array_equal(
        label_maps.read_png(masks / "b.png"), voc_augmentation.read_mask(sbd / "cls/b.mat")
    )
    path = tmp_path / "out" / "ImageSets/Segmentation/train_aug.txt"
    assert path.read_text() == "a\nb\nc\n"


def test_missing_and_damaged_files(trees, tmp_path):
    voc, sbd = trees
    (sbd / "cls/b.mat").write_text("no matrix")
    with pytest.raises(InputError, match=r"b\.mat: not a mask of SBD"):
        voc_augmentation.write_augmentation(voc, sbd, tmp_path / "out")
    (sbd / "cls/b.mat").unlink()
    with pytest.raises(InputError, match=r"b\.mat: no such mask"):
        voc_augmentation.write_augmentation(voc, sbd, tmp_path / "out")
    (sbd / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt: no such list"):
        voc_augmentation.augmented_names(voc, sbd)
