import gc
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.mask_rcnn.pseudo_labels import PseudoLabels
from workflow_scripts.maskdistill.torch_tools.sampling import Sample


def coco_file(tmp_path, *, annotated=(7, 9)):
    """Write three images of a white rectangle; the COCO file annotates the ids in `annotated`."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": c, "name": f"cluster_{c:03d}"} for c in (1, 2)],
    }
    for image_id in (9, 8, 7):
        mask = np.zeros((40, 60), bool)
        mask[4:16, 6 + image_id : 30] = True
        Image.fromarray(np.repeat(255 * mask[..., None], 3, axis=2).astype(np.uint8)).save(
            tmp_path / f"{image_id}.png"
        )
        content["images"].append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": 40, "width": 60}
        )
        if image_id in annotated:
            encoded = masks.encode(mask)
            box = [encoded.x, encoded.y, encoded.box_width, encoded.box_height]
            content["annotations"].append(
                {
                    "id": image_id,
                    "image_id": image_id,
                    "category_id": 2 if image_id == 9 else 1,
                    "segmentation": {"size": [40, 60], "counts": encoded.rle_counts.decode()},
                    "bbox": box,
                    "area": encoded.area,
                    "iscrowd": 0,
                }
            )
    return content


def dataset(tmp_path, content, **options):
    path = tmp_path / "pseudo_labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    options = {"sides": (40,), "longer_side": 100, "flip": False, "seed": 0} | options
    return PseudoLabels(path, tmp_path, **options)


def test_images_without_annotation_are_left_out_and_order_is_by_id(tmp_path):
    examples = dataset(tmp_path, coco_file(tmp_path))

    assert len(examples) == 2
    assert examples.clusters == 2
    assert [int(examples[Sample(0, 0, i)].labels[0]) for i in (0, 1)] == [1, 2]


def test_unchanged_size_gives_the_annotation_back(tmp_path):
    example = dataset(tmp_path, coco_file(tmp_path))[Sample(0, 0, 1)]

    assert example.image.shape == (3, 40, 60)
    assert example.boxes.tolist() == [[15, 4, 30, 16]]
    np.testing.assert_array_equal(example.masks[0], example.image[0] == 255)


def test_image_mask_and_box_are_resized_and_mirrored_together(tmp_path):
    examples = dataset(
        tmp_path, coco_file(tmp_path), sides=(20, 40, 80), longer_side=1000, flip=True
    )

    sizes, mirrored = set(), set()
    for step in range(40):
        example = examples[Sample(step, 0, 0)]
        height = example.image.shape[1]
        scale = height / 40
        left, top, right, bottom = (example.boxes[0] / scale).tolist()
        sizes.add(height)
        mirrored.add(left > 25)
        assert (top, bottom) == (4, 16)
        assert (left, right) == ((30, 47) if left > 25 else (13, 30))
        columns = np.nonzero(example.masks[0].numpy())[1]
        assert abs(columns.min() - left * scale) <= 1
        assert abs(columns.max() + 1 - right * scale) <= 1
        bright = example.image[0].numpy() > 127
        different = (bright != example.masks[0].numpy().astype(bool)).sum()
        assert different <= 0.1 * bright.sum()
    assert sizes == {20, 40, 80}
    assert mirrored == {False, True}


def test_the_longer_side_is_bounded(tmp_path):
    examples = dataset(tmp_path, coco_file(tmp_path), sides=(80,), longer_side=90)

    assert examples[Sample(0, 0, 0)].image.shape == (3, 60, 90)


def test_a_place_in_the_plan_decides_the_augmentation(tmp_path):
    content = coco_file(tmp_path)
    options = {"sides": tuple(range(20, 80)), "flip": True}
    first, again = (dataset(tmp_path, content, **options)[Sample(3, 1, 0)] for _ in range(2))
    other = dataset(tmp_path, content, **options, seed=1)[Sample(3, 1, 0)]

    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.image.shape != first.image.shape


def test_several_objects_stay_in_the_order_of_the_file_whatever_lies_between(tmp_path):
    content = coco_file(tmp_path)
    nine, seven = content["annotations"]
    more = [nine | {"category_id": c, "bbox": [c, 4, 5, 6]} for c in (1, 2, 1)]
    content["annotations"] = [more[0], seven, more[1], more[2]]
    example = dataset(tmp_path, content)[Sample(0, 0, 1)]
    assert example.labels.tolist() == [1, 2, 1]
    assert example.boxes[:, 0].tolist() == [1, 2, 1]


def test_the_order_of_keys_and_layout_of_the_file_do_not_matter(tmp_path):
    content = coco_file(tmp_path)
    for image in content["images"]:
        old = tmp_path / image["file_name"]
        image["file_name"] = f"größe {image['id']}.png"
        old.rename(tmp_path / image["file_name"])
    expected = dataset(tmp_path, content)[Sample(0, 0, 0)]
    turned = dict(reversed(content.items())) | {"info": {"images": [1]}}
    for text in (json.dumps(turned), json.dumps(turned, indent=1, ensure_ascii=False)):
        found = dataset(tmp_path, text)[Sample(0, 0, 0)]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_image_keeps_little_more_than_its_masks(tmp_path):
    counts = "0" * 300
    many = {
        "images": [
            {"id": i, "file_name": f"{i:06d}.jpg", "height": 40, "width": 60} for i in range(5000)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "segmentation": {"size": [40, 60], "counts": counts},
                "bbox": [1, 2, 3, 4],
            }
            for i in range(5000)
        ],
        "categories": [{"id": 1, "name": "one"}],
    }
    text = json.dumps(many)
    dataset(tmp_path, coco_file(tmp_path))  # imports what the first call loads once
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    examples = dataset(tmp_path, text)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert len(examples) == 5000
    assert kept / 5000 < 600


def edited(tmp_path, key, value):
    content = coco_file(tmp_path)
    content["annotations"][0][key] = value
    return content


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: "{", "not valid JSON"),
        (lambda p: json.dumps(coco_file(p))[:-1], "not valid JSON"),
        (lambda p: json.dumps(coco_file(p))[:300], "not valid JSON"),
        (lambda p: "[]", "not a COCO dataset file"),
        (lambda p: {"images": []}, "not a COCO dataset file"),
        (lambda p: coco_file(p, annotated=()), "none of the 3 images is annotated"),
        (lambda p: coco_file(p) | {"categories": [{"id": 0, "name": "a"}]}, "1..C"),
        (lambda p: edited(p, "category_id", 3), "json: annotation 9 has category 3"),
        (lambda p: edited(p, "category_id", "1"), "not a COCO dataset file"),
        (lambda p: edited(p, "bbox", [1, 2, 3]), "not a COCO dataset file"),
        (lambda p: edited(p, "image_id", 1), "image 1"),
        (lambda p: edited(p, "segmentation", [[0, 0, 1, 1, 2, 2]]), "not compressed RLE"),
        (lambda p: edited(p, "segmentation", {"size": [1, 1], "counts": "1"}), "image's size"),
        (lambda p: edited(p, "bbox", [0, 0, 0, 0]), "empty"),
    ],
)
def test_unusable_files_are_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        dataset(tmp_path, make(tmp_path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        PseudoLabels(
            tmp_path / "none.json", tmp_path, sides=(8,), longer_side=8, flip=False, seed=0
        )


def test_an_image_that_changed_is_refused(tmp_path):
    examples = dataset(tmp_path, coco_file(tmp_path))
    Image.new("RGB", (10, 10)).save(tmp_path / "7.png")
    (tmp_path / "9.png").unlink()

    with pytest.raises(InputError, match="10 x 10 px"):
        examples[Sample(0, 0, 0)]
    with pytest.raises(InputError, match="missing file"):
        examples[Sample(0, 0, 1)]
