import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from workflow_scripts.maskdistill import label_maps
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.ground_truth import GroundTruth, has_ground_truth

VOC = {
    "adapter": "voc",
    "splits": {"val": "val"},
    "ground_truth": True,
    "classes": ["cat", "dog"],
}
COCO = {
    "adapter": "coco",
    "splits": {"val": {"annotations": "a.json", "images": "val"}},
    "ground_truth": True,
    "classes": [],
}


def rectangle(y0, y1, x0, x1, size=(20, 30)):
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def write_png(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(label_maps.encode_png(labels))


def test_voc(tmp_path):
    classes, objects = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    first, second, border = rectangle(2, 8, 3, 9), rectangle(2, 8, 12, 20), rectangle(1, 2, 3, 9)
    classes[first | second], classes[border] = 2, 255
    objects[first], objects[second], objects[border] = 1, 2, 255
    write_png(tmp_path / "SegmentationClass" / "a.b.png", classes)
    write_png(tmp_path / "SegmentationObject" / "a.b.png", objects)
    truth = GroundTruth(VOC, tmp_path, "val")
    assert truth.class_names == ("cat", "dog")
    np.testing.assert_array_equal(truth.semantic(5, "JPEGImages/a.b.jpg"), classes)
    found = truth.instances(5, "JPEGImages/a.b.jpg")
    assert [(i.class_id, i.crowd) for i in found] == [(2, False), (2, False)]
    np.testing.assert_array_equal(found[0].mask, first)
    np.testing.assert_array_equal(found[1].mask, second)


def test_the_class_of_a_voc_object_is_that_of_its_labelled_pixels(tmp_path):
    """Most pixels under the two objects are void or background."""
    classes, objects = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    objects[:, :10], objects[:, 20:] = 1, 2
    classes[:, :8], classes[0, 8] = 255, 1
    classes[0, 20:22], classes[1, 20] = 2, 1
    write_png(tmp_path / "SegmentationClass" / "a.png", classes)
    write_png(tmp_path / "SegmentationObject" / "a.png", objects)
    found = GroundTruth(VOC, tmp_path, "val").instances(5, "JPEGImages/a.jpg")
    assert [instance.class_id for instance in found] == [1, 2]
    np.testing.assert_array_equal(found[0].mask, objects == 1)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (np.full((20, 30), 3, np.uint8), r"a\.png: object 3 has no pixel of a class"),
        (np.ones((30, 20), np.uint8), r"SegmentationObject/a\.png: of another size"),
    ],
)
def test_voc_objects_and_classes_that_do_not_fit(tmp_path, objects, message):
    write_png(tmp_path / "SegmentationClass" / "a.png", np.full((20, 30), 255, np.uint8))
    write_png(tmp_path / "SegmentationObject" / "a.png", objects)
    with pytest.raises(InputError, match=message):
        GroundTruth(VOC, tmp_path, "val").instances(5, "JPEGImages/a.jpg")


def test_labels_of_the_augmented_training_set(tmp_path):
    labels = np.full((4, 6), 2, np.uint8)
    write_png(tmp_path / "SegmentationClass" / "a.png", labels)
    write_png(tmp_path / "SegmentationClassAug" / "a.png", 0 * labels)
    write_png(tmp_path / "SegmentationClassAug" / "b.png", labels // 2)
    truth = GroundTruth(VOC, tmp_path, "val")
    assert (truth.semantic(1, "JPEGImages/a.jpg") == 2).all()  # VOC's own come first
    assert (truth.semantic(2, "JPEGImages/b.jpg") == 1).all()


def test_voc_without_labels(tmp_path):
    with pytest.raises(InputError, match="SegmentationClass: no such folder"):
        GroundTruth(VOC, tmp_path, "val")
    (tmp_path / "SegmentationClass").mkdir()
    with pytest.raises(InputError, match=r"a\.png: no such label map"):
        GroundTruth(VOC, tmp_path, "val").semantic(1, "JPEGImages/a.jpg")


def coco(tmp_path, annotations, categories=((18, "dog"), (1, "person"), (90, "brush"))):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [
            {"id": n, "image_id": 7, "iscrowd": 0, **annotation}
            for n, annotation in enumerate(annotations)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return GroundTruth(COCO, tmp_path, "val")


def polygon(y0, y1, x0, x1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def compressed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask):
    """Lengths of the runs down the columns, of zeros first."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int), [2]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": list(mask.shape), "counts": counts}


def test_coco_classes_are_numbered_in_the_order_of_their_ids(tmp_path):
    truth = coco(tmp_path, [{"category_id": 18, "segmentation": [polygon(1, 3, 1, 3)]}])
    assert truth.class_names == ("person", "dog", "brush")
    assert [i.class_id for i in truth.instances(7, "val/a.jpg")] == [2]


@pytest.mark.parametrize("write", [compressed, uncompressed, lambda m: [polygon(4, 11, 6, 21)]])
def test_coco_segmentations(tmp_path, write):
    mask = rectangle(4, 11, 6, 21)
    truth = coco(tmp_path, [{"category_id": 1, "segmentation": write(mask)}])
    (instance,) = truth.instances(7, "val/a.jpg")
    assert instance.mask.dtype == bool
    np.testing.assert_array_equal(instance.mask, mask)


def test_uncompressed_runs_that_begin_inside(tmp_path):
    mask = rectangle(0, 5, 0, 4) | rectangle(18, 20, 28, 30)
    truth = coco(tmp_path, [{"category_id": 1, "segmentation": uncompressed(mask)}])
    np.testing.assert_array_equal(truth.instances(7, "")[0].mask, mask)


def test_several_polygons_are_one_object_and_lines_are_nothing(tmp_path):
    parts = [polygon(1, 4, 1, 4), polygon(10, 15, 20, 25), [3.0, 3.0, 8.0, 8.0]]
    truth = coco(
        tmp_path,
        [
            {"category_id": 1, "segmentation": parts},
            {"category_id": 1, "segmentation": []},
        ],
    )
    both, none = truth.instances(7, "")
    np.testing.assert_array_equal(both.mask, rectangle(1, 4, 1, 4) | rectangle(10, 15, 20, 25))
    assert none.mask.shape == (20, 30)
    assert not none.mask.any()


def test_small_objects_cover_large_ones_and_crowds_are_ignored(tmp_path):
    large, small, crowd = rectangle(0, 12, 0, 20), rectangle(4, 8, 4, 8), rectangle(6, 20, 2, 30)
    truth = coco(
        tmp_path,
        [
            {"category_id": 90, "segmentation": [polygon(4, 8, 4, 8)]},
            {"category_id": 1, "segmentation": [polygon(0, 12, 0, 20)]},
            {"category_id": 18, "segmentation": uncompressed(crowd), "iscrowd": 1},
        ],
    )
    expected = np.zeros((20, 30), np.uint8)
    expected[crowd], expected[large], expected[small] = 255, 1, 3
    labels = truth.semantic(7, "")
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)
    assert [i.crowd for i in truth.instances(7, "")] == [False, False, True]


def test_many_classes_take_16_bits(tmp_path):
    categories = [(n, f"class {n}") for n in range(1, 301)]
    annotations = [
        {"category_id": 300, "segmentation": [polygon(4, 8, 4, 8)]},
        {"category_id": 1, "segmentation": uncompressed(rectangle(10, 12, 0, 5)), "iscrowd": 1},
    ]
    labels = coco(tmp_path, annotations, categories).semantic(7, "")
    assert labels.dtype == np.uint16
    assert np.unique(labels).tolist() == [0, 300, 65535]


def test_an_image_without_annotations(tmp_path):
    truth = coco(tmp_path, [])
    assert truth.instances(7, "") == []
    assert truth.semantic(7, "").shape == (20, 30)


def test_no_ground_truth(tmp_path):
    dataset = {**VOC, "ground_truth": False}
    assert not has_ground_truth(dataset)
    with pytest.raises(InputError, match="no ground truth"):
        GroundTruth(dataset, tmp_path, "val")
    with pytest.raises(InputError, match=r"a\.json: no such file; check `annotations`"):
        GroundTruth(COCO, tmp_path, "val")
