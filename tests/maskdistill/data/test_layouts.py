import json
import shutil

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.data.layouts import recognise
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps


def image(path, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(path)


def voc(root, names=("a", "b"), lists=("train", "val"), classes=3, labels=True):
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for name in lists:
        (root / f"ImageSets/Segmentation/{name}.txt").write_text("\n".join(names) + "\n")
    for number, name in enumerate(names):
        image(root / "JPEGImages" / f"{name}.jpg")
        if labels:
            values = np.full((20, 30), min(classes, number + 1), np.uint8)
            values[0] = 255
            (root / "SegmentationClass").mkdir(exist_ok=True)
            path = root / "SegmentationClass" / f"{name}.png"
            path.write_bytes(label_maps.encode_png(values))
    return root


def test_a_plain_folder(tmp_path):
    image(tmp_path / "any/where.png")
    (tmp_path / "settings.json").write_text('{"images": "none"}')
    found = recognise(tmp_path)
    assert found.dataset == {"root": str(tmp_path), "adapter": "folder", "splits": {"train": "."}}
    assert (found.notes, found.classes) == ([], None)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        recognise(tmp_path / "nowhere")


def test_voc_with_classes_of_unknown_names(tmp_path):
    found = recognise(voc(tmp_path, classes=2))
    assert found.dataset["adapter"] == "voc"
    assert found.dataset["splits"] == {"train": "train", "val": "val"}
    assert found.dataset["ground_truth"] is True
    assert found.dataset["classes"] == ["class_1", "class_2"]
    assert found.classes == 2
    assert "names are not known" in found.notes[0]


def test_vocs_own_images_have_vocs_classes(tmp_path):
    found = recognise(voc(tmp_path, ("2007_000027", "2011_003271")))
    assert found.classes == 20
    assert found.dataset["classes"][14] == "person"
    assert found.notes == []


def test_cvats_export(tmp_path):
    """It has one list, `default`, RGB label maps, and a legend."""
    voc(tmp_path, lists=("default",), labels=False)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nfox:9,8,7::\nowl:1,2,3::\n")
    for name in "ab":
        path = tmp_path / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), (9, 8, 7)).save(path)
    found = recognise(tmp_path)
    assert found.dataset["splits"] == {"train": "default"}
    assert found.dataset["classes"] == ["fox", "owl"]
    assert found.dataset["ground_truth"] is True


def test_voc_without_labels_or_with_labels_that_cannot_be_read(tmp_path):
    found = recognise(voc(tmp_path / "without", labels=False))
    assert found.dataset["ground_truth"] is False
    assert "classes" not in found.dataset
    voc(tmp_path / "rgb", labels=False)
    for name in "ab":
        path = tmp_path / "rgb/SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (30, 20), (9, 8, 7)).save(path)
    found = recognise(tmp_path / "rgb")
    assert found.dataset["ground_truth"] is False
    assert found.classes is None
    assert "add CVAT's labelmap.txt" in found.notes[-1]
    voc(tmp_path / "some", names=("a", "b", "c"))
    (tmp_path / "some/SegmentationClass/c.png").unlink()
    found = recognise(tmp_path / "some")
    assert found.dataset["ground_truth"] is False
    assert "1 of 3 images of the split 'val' have no label map" in found.notes[-1]
    assert found.objects
    image(tmp_path / "no list/JPEGImages/a.png")
    found = recognise(tmp_path / "no list")
    assert found.dataset["adapter"] == "folder"
    assert found.dataset["splits"] == {"train": "JPEGImages"}


def test_voc_with_all_some_and_none_of_the_masks_of_objects(tmp_path):
    voc(tmp_path, names=("a", "b", "c"))
    none = recognise(tmp_path)
    shutil.copytree(tmp_path / "SegmentationClass", tmp_path / "SegmentationObject")
    every = recognise(tmp_path)
    (tmp_path / "SegmentationObject/b.png").unlink()
    some = recognise(tmp_path)
    assert [found.objects for found in (none, every, some)] == [False, True, False]
    assert all(found.dataset["ground_truth"] for found in (none, every, some))
    assert none.notes == every.notes == some.notes[:-1]
    assert some.notes[-1] == (
        "1 of 3 images of the split 'val' have no map of their objects, for example "
        "SegmentationObject/b.png"
    )


def coco(root, name, folder, *, categories=("cat", "dog"), segmentation=None):
    image(root / folder / "1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}],
        "categories": [{"id": i, "name": one} for i, one in enumerate(categories, start=1)],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [1, 1, 5, 5],
                **({} if segmentation is None else {"segmentation": segmentation}),
            }
        ],
    }
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))


def test_coco(tmp_path):
    polygon = [[1, 1, 6, 1, 6, 6, 1, 6]]
    coco(tmp_path, "annotations/instances_train2017.json", "train2017", segmentation=polygon)
    coco(tmp_path, "annotations/instances_val2017.json", "images/val2017", segmentation=polygon)
    (tmp_path / "annotations/other.json").write_text("[1, 2]")
    found = recognise(tmp_path)
    assert found.dataset["adapter"] == "coco"
    assert found.dataset["splits"] == {
        "train": {"annotations": "annotations/instances_train2017.json", "images": "train2017"},
        "val": {"annotations": "annotations/instances_val2017.json", "images": "images/val2017"},
    }
    assert found.dataset["ground_truth"] is True
    assert (found.classes, found.objects) == (2, True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("test", "train", "val"), {"train": "train.json", "val": "val.json"}),
        (("intervals", "valid"), {"train": "intervals.json", "val": "valid.json"}),
        (("a", "instances_train2017"), {"train": "instances_train2017.json"}),
        (("test",), {"train": "test.json"}),
        (("test", "val"), {"train": "val.json"}),
    ],
)
def test_splits_of_coco_follow_the_words_in_the_names(tmp_path, names, expected):
    for name in names:
        coco(tmp_path, f"{name}.json", "images", segmentation=[[1, 1, 6, 1, 6, 6]])
    splits = recognise(tmp_path).dataset["splits"]
    assert {split: files["annotations"] for split, files in splits.items()} == expected


def test_coco_with_boxes_only_or_without_images(tmp_path):
    coco(tmp_path / "boxes", "labels.json", "images")
    found = recognise(tmp_path / "boxes")
    assert found.dataset["splits"] == {"train": {"annotations": "labels.json", "images": "images"}}
    assert found.dataset["ground_truth"] is False
    assert "not only a box" in found.notes[-1]
    coco(tmp_path / "empty", "labels.json", "images", segmentation=[[1, 1, 6, 1, 6, 6]])
    (tmp_path / "empty/images/1.jpg").unlink()
    assert recognise(tmp_path / "empty").dataset["adapter"] == "folder"
