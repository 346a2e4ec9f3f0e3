import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests import odd_files
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth, has_ground_truth
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps

VOC = {
    "adapter": "voc",
    "splits": {"val": "val"},
    "ground_truth": True,
    "classes": ["cat", "dog"],
}
COCO = {
    "adapter": "coco",
    "splits": {"val": {"annotations": "a.json", "images": "JPEGImages"}},
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


def test_label_maps_may_all_be_in_the_second_folder(tmp_path):
    with pytest.raises(
        InputError, match=r"SegmentationClass: no such folder; .*ground_truth: false"
    ):
        GroundTruth(VOC, tmp_path, "val")
    write_png(tmp_path / "SegmentationClassAug" / "a.png", np.ones((20, 30), np.uint8))
    labels = GroundTruth(VOC, tmp_path, "val").semantic(5, "JPEGImages/a.jpg")
    np.testing.assert_array_equal(labels, np.ones((20, 30)))


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
        (np.ones((30, 20), np.uint8), r"SegmentationObject/a\.png: its size differs"),
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


def write_coloured(path, labels, colours, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(colours, np.uint8)[labels]
    palette = Image.Palette.ADAPTIVE  # the numbers of its colours mean nothing
    Image.fromarray(pixels).convert(mode, palette=palette).save(path)


COLOURS = [(0, 0, 0), (250, 50, 83), (10, 200, 9), (224, 224, 192), (1, 2, 3), (255, 1, 1)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_label_maps_in_the_colours_of_cvat(tmp_path, mode):
    classes, objects = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    classes[2:8, 3:9], classes[2:8, 12:20], classes[1] = 2, 1, 3
    objects[2:8, 3:9], objects[2:8, 12:20], objects[1] = 4, 5, 3
    write_coloured(tmp_path / "SegmentationClass" / "a.png", classes, COLOURS, mode)
    write_coloured(tmp_path / "SegmentationObject" / "a.png", objects, COLOURS, mode)
    legend = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
    (tmp_path / "labelmap.txt").write_text(legend + "dog:10,200,9::\nmouse:9,9,9::\n")
    truth = GroundTruth(VOC, tmp_path, "val")
    expected = np.where(classes == 3, 255, classes)  # VOC's colour of void
    np.testing.assert_array_equal(truth.semantic(1, "JPEGImages/a.jpg"), expected)
    found = {i.class_id: i.mask for i in truth.instances(1, "JPEGImages/a.jpg")}
    assert set(found) == {1, 2}
    np.testing.assert_array_equal(found[2], objects == 4)
    np.testing.assert_array_equal(found[1], objects == 5)

    # A gray label map holds the numbers of classes, whether there is a legend or not.
    Image.fromarray(np.full((20, 30), 2, np.uint8)).save(tmp_path / "SegmentationClass/b.png")
    assert (truth.semantic(2, "JPEGImages/b.jpg") == 2).all()

    (tmp_path / "labelmap.txt").write_text(legend)
    with pytest.raises(InputError, match=r"a\.png: has the colour 10,200,9, which labelmap"):
        GroundTruth(VOC, tmp_path, "val").semantic(1, "JPEGImages/a.jpg")
    (tmp_path / "labelmap.txt").write_text(legend + "bird:10,200,9::\n")
    with pytest.raises(InputError, match=r"class 'bird' of labelmap\.txt, which dataset\.classes"):
        GroundTruth(VOC, tmp_path, "val").semantic(1, "JPEGImages/a.jpg")


def test_label_maps_in_colours_without_a_legend(tmp_path):
    labels = np.ones((20, 30), np.uint8)
    write_coloured(tmp_path / "SegmentationClass" / "a.png", labels, COLOURS)
    with pytest.raises(InputError, match=r"a\.png: not a label map .*RGB.*add CVAT's labelmap"):
        GroundTruth(VOC, tmp_path, "val").semantic(1, "JPEGImages/a.jpg")


@pytest.mark.parametrize("line", ["cat", "cat:1,2", "cat:red::", "dog:0,0,0::"])
def test_legends_that_cannot_be(tmp_path, line):
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
    with pytest.raises(InputError, match=r"labelmap\.txt: (line 2 is not|.* the same colour)"):
        GroundTruth(VOC, tmp_path, "val")


def test_the_legend_of_this_project_is_read(tmp_path):
    (tmp_path / "labelmap.txt").write_text(label_maps.legend(["cat", "dog"]))
    assert label_maps.read_legend(tmp_path / "labelmap.txt") == {
        "background": (0, 0, 0),
        "cat": (128, 0, 0),
        "dog": (0, 128, 0),
    }


def turned_dataset(root, orientation, size, *, drawn_on_stored):
    """A photograph that EXIF turns, with labels of both formats; returns the upright labels."""
    labels = np.zeros(size, np.uint8)
    labels[1:4, 2:9] = 2
    store = odd_files.STORED[orientation]
    stored = np.ascontiguousarray(store(labels))
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    photograph = Image.fromarray(np.zeros((*stored.shape, 3), np.uint8))
    photograph.save(root / "JPEGImages/a.jpg", exif=odd_files.exif(orientation))
    drawn = stored if drawn_on_stored else labels
    write_png(root / "SegmentationClass" / "a.png", drawn)
    write_png(root / "SegmentationObject" / "a.png", drawn)
    height, width = drawn.shape
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "segmentation": compressed(drawn == 2)}
        ],
    }
    (root / "a.json").write_text(json.dumps(content))
    return labels


def both_formats(root, **options):
    yield GroundTruth({**VOC, **options}, root, "val")
    yield GroundTruth({**COCO, **options}, root, "val")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on_stored", [False, True])
def test_the_size_tells_which_pixels_labels_were_drawn_on(
    tmp_path, capsys, orientation, drawn_on_stored
):
    expected = turned_dataset(tmp_path, orientation, (20, 30), drawn_on_stored=drawn_on_stored)
    for setting in ({}, {"label_orientation": "auto"}, {"label_orientation": "stored"}):
        for truth in both_formats(tmp_path, **setting):
            np.testing.assert_array_equal(truth.semantic(1, "JPEGImages/a.jpg"), expected)
            (found,) = truth.instances(1, "JPEGImages/a.jpg")
            np.testing.assert_array_equal(found.mask, expected == 2)
            truth.print_turned()
            assert ("1 images have labels" in capsys.readouterr().out) == drawn_on_stored


@pytest.mark.parametrize(
    ("orientation", "size"), [(2, (20, 30)), (3, (20, 30)), (4, (20, 30)), (6, (20, 20))]
)
def test_where_the_size_does_not_tell_a_setting_decides(tmp_path, orientation, size):
    for stored, setting in ((False, "upright"), (True, "stored")):
        expected = turned_dataset(tmp_path, orientation, size, drawn_on_stored=stored)
        for truth in both_formats(tmp_path, label_orientation=setting):
            np.testing.assert_array_equal(truth.semantic(1, "JPEGImages/a.jpg"), expected)
            (found,) = truth.instances(1, "JPEGImages/a.jpg")
            np.testing.assert_array_equal(found.mask, expected == 2)
        for truth in both_formats(tmp_path, label_orientation="auto"):
            with pytest.raises(InputError, match=r"a\.jpg: EXIF .*label_orientation to upright"):
                truth.semantic(1, "JPEGImages/a.jpg")
            with pytest.raises(InputError, match=r"a\.jpg: EXIF .*label_orientation to upright"):
                truth.instances(1, "JPEGImages/a.jpg")


def test_voc_without_labels(tmp_path):
    with pytest.raises(InputError, match="SegmentationClass: no such folder"):
        GroundTruth(VOC, tmp_path, "val")
    (tmp_path / "SegmentationClass").mkdir()
    with pytest.raises(InputError, match=r"a\.png: no such label map"):
        GroundTruth(VOC, tmp_path, "val").semantic(1, "JPEGImages/a.jpg")


def coco(
    tmp_path, annotations, categories=((18, "dog"), (1, "person"), (90, "brush")), size=(20, 30)
):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
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


SQUARE = {"category_id": 1, "segmentation": [polygon(4, 8, 4, 8)]}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            {"category_id": 1, "bbox": [1, 2, 3, 4]},
            "is None; the evaluation needs a mask",
        ),
        ({**SQUARE, "segmentation": None}, "`segmentation` is None"),
        ({**SQUARE, "category_id": 2}, "unknown category 2"),
        ({"segmentation": []}, "`category_id` is None; it must be a whole number"),
        ({**SQUARE, "category_id": 1.5}, "`category_id` is 1.5"),
        ({**SQUARE, "segmentation": {"size": [30, 20], "counts": [600]}}, r"\[30, 20\], the image"),
        ({**SQUARE, "segmentation": {"counts": [600]}}, "`segmentation.size` is None"),
        ({**SQUARE, "segmentation": {"size": [20, 30]}}, "`segmentation.counts` are not run"),
        (
            {**SQUARE, "segmentation": {"size": [20, 30], "counts": [10, 5]}},
            "`segmentation.counts` add up to 15, not to 600 pixels",
        ),
        ({**SQUARE, "segmentation": {"size": [20, 30], "counts": [601, -1]}}, "are not run"),
        ({**SQUARE, "segmentation": [[1, 2, 3, 4, 5]]}, "polygon that is not a list of x, y"),
        ({**SQUARE, "segmentation": [[1, 2, 3, 4, 5, None]]}, "polygon that is not a list of x, y"),
        ({**SQUARE, "segmentation": [1, 2, 3, 4, 5, 6]}, "polygon that is not a list of x, y"),
        ({**SQUARE, "segmentation": [[[1, 2], [3, 4]]]}, "polygon that is not a list of x, y"),
        ({**SQUARE, "segmentation": [[1e9, 2, 3, 4, 5, 6]]}, "polygon that is not a list of x, y"),
    ],
)
def test_invalid_annotations(tmp_path, annotation, message):
    """They are found before the first image is scored, and by name."""
    with pytest.raises(InputError, match=message) as error:
        coco(tmp_path, [SQUARE, annotation])
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: annotations[1] (id 1)")
    assert "correct" in str(error.value) or "whole number" in str(error.value)


def test_compressed_run_lengths_are_read_as_pycocotools_does(tmp_path):
    """Random masks, none and all of the image among them, of runs short and long, are taken."""
    rng = np.random.default_rng(0)
    for share in (0, 0.001, 0.1, 0.5, 0.9, 1):
        for size in ((1, 1), (20, 30), (300, 700)):
            smooth = rng.random((size[0] // 7 + 1, size[1] // 7 + 1)) < share
            mask = smooth.repeat(7, axis=0).repeat(7, axis=1)[: size[0], : size[1]]
            for drawn in (mask, mask ^ (rng.random(size) < 0.01)):
                truth = coco(tmp_path, [{**SQUARE, "segmentation": compressed(drawn)}], size=size)
                np.testing.assert_array_equal(truth.instances(7, "")[0].mask, drawn)


@pytest.mark.parametrize("counts", ["", "PP", "zz!!", "ü", "0P", "PPPPPPPPPPPPPPP0", "Z1", "\n"])
def test_texts_that_are_no_run_lengths_of_the_image(tmp_path, counts):
    """pycocotools would read and write beyond its memory."""
    segmentation = {"size": [20, 30], "counts": counts}
    with pytest.raises(InputError, match=r"annotations\[0\] \(id 0\) of image 7: .*counts` a"):
        coco(tmp_path, [{**SQUARE, "segmentation": segmentation}])


def test_ids_may_be_texts_of_numbers(tmp_path):
    categories = [("18", "dog"), ("2", "person")]
    truth = coco(tmp_path, [{**SQUARE, "category_id": "18", "image_id": "7"}], categories)
    assert truth.class_names == ("person", "dog")  # in the order of the numbers
    assert [instance.class_id for instance in truth.instances(7, "")] == [2]


def test_annotations_of_images_that_are_not_listed_play_no_part(tmp_path):
    assert coco(tmp_path, [{"image_id": 8, "category_id": 77}]).instances(7, "") == []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"images": [{"id": 7, "file_name": "a.jpg", "width": 3}]}, r"\(id 7\): `height` is None"),
        ({"images": [{"id": 7, "height": 2, "width": 3}]}, r"images\[0\] has no `file_name`"),
        ({"images": [{"file_name": "a.jpg", "height": 2, "width": 3}]}, "`id` is None"),
        ({"images": ["a.jpg"]}, r"images\[0\] is 'a\.jpg', not an object"),
        ({"annotations": {}}, "`annotations` is not a list"),
        ({"annotations": [[]]}, r"annotations\[0\] is \[\], not an object"),
        ({"annotations": [{"id": 4}]}, r"\(id 4\): `image_id` is None"),
        ({"categories": []}, "no classes"),
        ({"categories": [{"id": 1}]}, "no `name`"),
        ({"categories": [{"name": "cat"}]}, "`id` is None"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]}, "id occurs twice"),
    ],
)
def test_coco_files_that_cannot_be(tmp_path, entries, message):
    image = {"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}
    content = {"images": [image], "categories": [{"id": 1, "name": "cat"}], **entries}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        GroundTruth(COCO, tmp_path, "val")
    assert str(error.value).startswith(f"{tmp_path / 'a.json'}: ")


def test_an_image_that_left_the_file(tmp_path):
    with pytest.raises(InputError, match=r"no image 8 \(b\.jpg\) any more; run list_images again"):
        coco(tmp_path, []).semantic(8, "b.jpg")


@pytest.mark.parametrize("name", ["cat", "background"])
def test_classes_that_cannot_be_told_apart(tmp_path, name):
    """The metrics have them as keys."""
    categories = [(1, "cat"), (2, "dog"), (3, name)]
    message = f"the class name '{name}' .*; rename the class"
    with pytest.raises(InputError, match=rf"a\.json: {message}"):
        coco(tmp_path, [], categories)
    (tmp_path / "SegmentationClass").mkdir()
    with pytest.raises(InputError, match=message):
        GroundTruth({**VOC, "classes": ["cat", "dog", name]}, tmp_path, "val")


def test_no_ground_truth(tmp_path):
    dataset = {**VOC, "ground_truth": False}
    assert not has_ground_truth(dataset)
    with pytest.raises(InputError, match="no ground truth"):
        GroundTruth(dataset, tmp_path, "val")
    with pytest.raises(InputError, match=r"a\.json: no such file; check `annotations`"):
        GroundTruth(COCO, tmp_path, "val")
