"""Every format is written, read back and compared; readers here are written from its description.

Where the real tool is installed it reads the files as well.
"""

import base64
import io
import json
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pillow_heif
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from tests.maskdistill.exports.test_polygons import fill, iou
from workflow_scripts.maskdistill.data.datasets import list_images
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.exports.content import Content, Picture, copy_image, export_names
from workflow_scripts.maskdistill.exports.formats import WRITERS
from workflow_scripts.maskdistill.exports.voc import regions
from workflow_scripts.maskdistill.files import label_maps, masks

NAMES = ["bird, small", "<b>cat</b> & \"co\"", "cluster_003"]  # fmt: skip
SIZES = [(40, 56), (33, 47), (64, 31)]


def blob(size, y, x, radius):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def candidate(picture_id, number, mask, cluster, score):
    encoded = masks.encode(mask)
    return {
        "image_id": picture_id,
        "candidate_id": number,
        "cluster": cluster,
        "score": score,
        **encoded._asdict(),
    }


@pytest.fixture
def content(tmp_path):
    """Three images with objects, one of them with parts and a hole, and one without any object."""
    pictures = []
    for number, size in enumerate(SIZES):
        path = tmp_path / "root" / "photos" / f"a {number}" / "ü.png"
        path.parent.mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        holed = blob(size, 15, 15, 12) & ~blob(size, 15, 15, 5)
        first = holed | blob(size, 25, 24, 6)
        second = blob(size, 28, 10, 7)
        objects = [] if number == 2 else [
            candidate(number, 0, first, 2, 0.875), candidate(number, 1, second, 1, 0.5),
        ]  # fmt: skip
        labels = np.where(second, 1, np.where(first, 2, 0)).astype(np.uint8)
        truth = np.where(first, 1, 0).astype(np.uint8)
        file_name = f"photos/a {number}/ü.png"
        pictures.append(
            Picture(number, file_name, f"a {number}/ü.png", *size, labels, objects, truth)
        )
    pseudo = {
        "images": [{"id": 7, "file_name": "t.jpg", "height": 40, "width": 56}],
        "annotations": [
            {
                "id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": 1.0,
                "bbox": [0, 0, 1, 1],
                "segmentation": {
                    "size": [40, 56],
                    "counts": masks.encode(blob((40, 56), 9, 9, 5)).rle_counts.decode("ascii"),
                },
            }
        ],
        "categories": [{"id": n, "name": f"cluster_00{n}"} for n in (1, 2, 3)],
    }  # fmt: skip
    (tmp_path / "pseudo.json").write_text(json.dumps(pseudo))
    return Content(
        dataset="mine",
        root=tmp_path / "root",
        split="val",
        names=NAMES,
        truth_names=["thing"],
        pictures=lambda: iter(pictures),
        pseudo_labels=tmp_path / "pseudo.json",
        polygons=True,
        polygon_tolerance=0.0,
    )


@pytest.fixture
def export(content, tmp_path):
    def write(name, **changes):
        folder = tmp_path / name
        folder.mkdir()
        WRITERS[name](Content(**{**vars(content), **changes}), folder)
        return folder

    return write


def mask_of(row):
    return masks.decode(row["rle_counts"], row["height"], row["width"])


def test_coco(export, content):
    folder = export("coco")
    dataset = COCO(folder / "predictions.json")
    assert [c["name"] for c in dataset.loadCats(dataset.getCatIds())] == NAMES
    assert len(dataset.imgs) == 3
    for picture in content.pictures():
        found = dataset.loadAnns(dataset.getAnnIds(imgIds=[picture.image_id]))
        assert [a["score"] for a in found] == [row["score"] for row in picture.objects]
        assert [a["category_id"] for a in found] == [row["cluster"] for row in picture.objects]
        for annotation, row in zip(found, picture.objects, strict=True):
            np.testing.assert_array_equal(dataset.annToMask(annotation), mask_of(row))
    pseudo = COCO(folder / "pseudo_labels.json")
    assert [c["name"] for c in pseudo.loadCats(pseudo.getCatIds())] == NAMES
    np.testing.assert_array_equal(pseudo.annToMask(pseudo.anns[1]), blob((40, 56), 9, 9, 5))
    polygons = json.loads((folder / "predictions_polygons.json").read_text())
    for annotation in polygons["annotations"]:
        rings = [np.reshape(ring, (-1, 2)) for ring in annotation["segmentation"]]
        original = dataset.annToMask(dataset.anns[annotation["id"]]).astype(bool)
        np.testing.assert_array_equal(fill(rings, original.shape), original)


def test_coco_polygons_are_on_request(export):
    assert {path.name for path in export("coco", polygons=False).iterdir()} == {
        "predictions.json",
        "pseudo_labels.json",
    }


def test_voc(export, content):
    folder = export("voc")
    listed = (folder / "ImageSets/Segmentation/val.txt").read_text(encoding="utf-8").splitlines()
    assert listed == [f"a {n}/ü" for n in range(3)]
    lines = (folder / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:3] == ["background:0,0,0::", "bird, small:128,0,0::"]
    for picture, name in zip(content.pictures(), listed, strict=True):
        labels = label_maps.read_png(folder / f"SegmentationClass/{name}.png")
        np.testing.assert_array_equal(labels, picture.labels)
        objects = label_maps.read_png(folder / f"SegmentationObject/{name}.png")
        np.testing.assert_array_equal(objects > 0, labels > 0)
        for number in np.unique(objects[objects > 0]):
            assert len(np.unique(labels[objects == number])) == 1
        assert (folder / "JPEGImages" / f"{name}.png").is_file()


def test_our_own_adapter_reads_voc_of_flat_folders(export, content):
    pictures = [
        p._replace(name=f"{p.image_id}.png", file_name=p.file_name) for p in content.pictures()
    ]
    folder = export("voc", pictures=lambda: iter(pictures))
    described = {"adapter": "voc", "splits": {"val": "val"}, "ground_truth": True, "classes": NAMES}
    assert [i.file_name for i in list_images(described, folder, "val")] == [
        f"JPEGImages/{n}.png" for n in range(3)
    ]
    truth = GroundTruth(described, folder, "val")
    for picture in pictures:
        labels = truth.semantic(0, f"JPEGImages/{picture.image_id}.jpg")
        np.testing.assert_array_equal(labels, picture.labels)


def test_regions_are_numbered_by_size():
    labels = np.zeros((40, 40), np.uint8)
    labels[2:4, 2:4] = labels[30:38, 30:38] = 2
    labels[10:20, 10:14] = 1
    labels[39, 39] = 255
    found = regions(labels)
    assert found[31, 31] == 1
    assert found[11, 11] == 2
    assert found[2, 2] == 3
    assert found[39, 39] == 255
    np.testing.assert_array_equal(found == 0, labels == 0)


def test_beyond_254_regions_the_smallest_of_each_label_share_a_number():
    labels = np.zeros((60, 60), np.uint8)
    labels[:40:2, :40:2] = 1  # 400 single pixels
    labels[1:40:4, 41:60:4] = 3  # and 50 more
    labels[50:58, 50:58] = 2
    labels[59, 59] = 255
    found = regions(labels)
    assert set(np.unique(found)) == {*range(1 + 251 + 2), 255}
    assert found[51, 51] == 1
    np.testing.assert_array_equal(found == 0, labels == 0)
    np.testing.assert_array_equal(found == 255, labels == 255)
    # Whoever reads the objects alone still finds every pixel's label.
    for number in np.unique(found):
        assert len(np.unique(labels[found == number])) == 1


def test_as_many_labels_as_there_are_colours():
    labels = np.zeros((32, 64), np.uint8)
    labels[::2, ::2] = 1 + np.arange(16 * 32).reshape(16, 32) % 254
    found = regions(labels)
    for number in np.unique(found):
        assert len(np.unique(labels[found == number])) == 1
    assert found.max() == 254


def test_yolo(export, content):
    folder = export("yolo")
    data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(NAMES))
    for picture in content.pictures():
        image = folder / data["val"] / picture.name
        assert image.is_file()
        # Tools find labels by this rule.
        path = folder / data["val"].replace("images", "labels") / picture.with_suffix(".txt")
        rows = path.read_text().splitlines()
        assert len(rows) == len(picture.objects)
        for line, row in zip(rows, picture.objects, strict=True):
            category, *points = line.split()
            assert int(category) == row["cluster"] - 1
            ring = np.reshape(np.array(points, float), (-1, 2)) * (picture.width, picture.height)
            assert iou(fill([ring], (picture.height, picture.width)), mask_of(row)) > 0.99


def test_yolo_with_tolerance_is_smaller_and_nearly_the_same(export, content):
    folder = export("yolo", polygon_tolerance=1.0)
    for picture in content.pictures():
        path = folder / "labels/val" / picture.with_suffix(".txt")
        for line, row in zip(path.read_text().splitlines(), picture.objects, strict=True):
            ring = np.reshape(np.array(line.split()[1:], float), (-1, 2))
            assert len(ring) < 70
            ring = ring * (picture.width, picture.height)
            assert iou(fill([ring], (picture.height, picture.width)), mask_of(row)) > 0.8


def unpack_rle(data):
    """Read thi.ng/rle-pack bit by bit, as its decoder does."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        repeated = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values)


def label_studio_decoders():
    yield unpack_rle
    try:
        from label_studio_sdk.converter.brush import decode_rle
    except ImportError:
        return
    yield decode_rle


def test_label_studio(export, content):
    folder = export("label_studio")
    interface = ElementTree.parse(folder / "interface.xml")
    assert [label.get("value") for label in interface.iter("Label")] == NAMES
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=photos/a%200/%C3%BC.png"
    for picture, task in zip(content.pictures(), tasks, strict=True):
        (prediction,) = task["predictions"]
        for result, row in zip(prediction["result"], picture.objects, strict=True):
            assert result["value"]["brushlabels"] == [NAMES[row["cluster"] - 1]]
            height, width = result["original_height"], result["original_width"]
            for decode in label_studio_decoders():
                pixels = np.reshape(decode(result["value"]["rle"]), (height, width, 4))
                np.testing.assert_array_equal(pixels[..., 3] == 255, mask_of(row))


def test_label_studio_runs_longer_than_16_bits():
    from workflow_scripts.maskdistill.exports.label_studio import encode

    mask = np.zeros((300, 300), bool)
    mask[200:, 7] = True
    pixels = np.reshape(unpack_rle(encode(mask)), (300, 300, 4))
    np.testing.assert_array_equal(pixels == 255, np.repeat(mask[..., None], 4, axis=2))


def test_huggingface(export, content):
    folder = export("huggingface")
    lines = (folder / "val/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for picture, line in zip(content.pictures(), lines, strict=True):
        row = json.loads(line)
        assert (folder / "val" / row["file_name"]).is_file()
        labels = label_maps.read_png(folder / "val" / row["mask_file_name"])
        np.testing.assert_array_equal(labels, picture.labels)
        assert row["objects"]["category"] == [o["cluster"] for o in picture.objects]


def test_hugging_face_datasets_loads_it(export, content, tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    folder = export("huggingface")
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="validation", cache_dir=str(tmp_path / "cache")
    )
    by_id = {row["image_id"]: row for row in found}
    for picture in content.pictures():
        row = by_id[str(picture.image_id)]
        assert row["image"].size == (picture.width, picture.height)
        np.testing.assert_array_equal(np.array(row["mask"]), picture.labels)
        for counts, original in zip(row["objects"]["rle_counts"], picture.objects, strict=True):
            found_mask = masks.decode(counts.encode(), picture.height, picture.width)
            np.testing.assert_array_equal(found_mask, mask_of(original))


def test_datumaro_reads_voc_as_cvat_does(export, content):
    datumaro = pytest.importorskip("datumaro", reason="Datumaro, CVAT's importer, is not installed")
    folder = export("voc")
    found = datumaro.Dataset.import_from(str(folder), "voc_instance_segmentation")
    names = [c.name for c in found.categories()[datumaro.AnnotationType.label]]
    assert names[: 1 + len(NAMES)] == ["background", *NAMES]
    items = {item.id: item for item in found}
    for picture in content.pictures():
        labels = np.zeros(picture.labels.shape, np.uint8)
        for annotation in items[picture.with_suffix("")].annotations:
            if annotation.type == datumaro.AnnotationType.mask:
                labels[annotation.image.astype(bool)] = annotation.label
        np.testing.assert_array_equal(labels, picture.labels)


def test_fiftyone(export, content):
    folder = export("fiftyone")
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))["samples"]
    targets = json.loads((folder / "metadata.json").read_text())["info"]["mask_targets"]
    assert targets["segmentation"]["2"] == NAMES[1]
    for picture, sample in zip(content.pictures(), samples, strict=True):
        assert (folder / sample["filepath"]).is_file()
        for field, labels in (("segmentation", picture.labels), ("ground_truth", picture.truth)):
            found = label_maps.read_png(folder / sample[field]["mask_path"])
            np.testing.assert_array_equal(found, labels)
            with Image.open(folder / sample[field]["mask_path"]) as image:
                assert image.mode == "L"  # FiftyOne would take a palette's colours for labels
        for found, row in zip(sample["objects"]["detections"], picture.objects, strict=True):
            assert found["label"] == NAMES[row["cluster"] - 1]
            part = np.load(io.BytesIO(zlib.decompress(base64.b64decode(found["mask"]))))
            np.testing.assert_array_equal(paste(part, found["bounding_box"], picture), mask_of(row))


def paste(part, box, picture):
    x, y = round(box[0] * picture.width), round(box[1] * picture.height)
    whole = np.zeros((picture.height, picture.width), bool)
    whole[y : y + part.shape[0], x : x + part.shape[1]] = part
    return whole


def test_fiftyone_itself_loads_it(export, content):
    fiftyone = pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    dataset = fiftyone.Dataset.from_dir(
        dataset_dir=str(export("fiftyone")), dataset_type=fiftyone.types.FiftyOneDataset
    )
    try:
        by_id = {sample["image_id"]: sample for sample in dataset}
        for picture in content.pictures():
            sample = by_id[str(picture.image_id)]
            np.testing.assert_array_equal(sample["segmentation"].get_mask(), picture.labels)
            np.testing.assert_array_equal(sample["ground_truth"].get_mask(), picture.truth)
            for found, row in zip(sample["objects"].detections, picture.objects, strict=True):
                assert found.confidence == row["score"]
                whole = paste(found.mask, found.bounding_box, picture)
                np.testing.assert_array_equal(whole, mask_of(row))
    finally:
        dataset.delete()


def test_names_in_an_export():
    assert export_names(["JPEGImages/a.jpg", "JPEGImages/b/c.jpg"]) == {
        "JPEGImages/a.jpg": "a.jpg",
        "JPEGImages/b/c.jpg": "b/c.jpg",
    }
    assert export_names(["a.jpg", "x/a.png"]) == {"a.jpg": "a.jpg", "x/a.png": "x/a.png"}
    assert export_names(["f/a.jpg", "f/a.png"]) == {
        "f/a.jpg": "a_jpg.jpg",
        "f/a.png": "a_png.png",
    }
    names = export_names(["a.jpg", "a.png", "a_jpg.png"])
    assert len({name.rpartition(".")[0] for name in names.values()}) == 3


@pytest.mark.parametrize(("suffix", "mode"), [("jpg", "RGB"), ("tif", "RGB"), ("tif", "L")])
def test_an_image_that_lies_on_its_side_is_exported_upright(tmp_path, suffix, mode):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :15] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"out/a.{suffix}"
    Image.fromarray(pixels).convert(mode).save(source, exif=exif)
    copy_image(source, target)
    with Image.open(target) as image:
        assert image.size == (20, 30)
        assert image.getexif().get(0x0112, 1) == 1
        upright = np.asarray(image)
    assert upright[:15].mean() > 240
    assert upright[15:].mean() < 15


@pytest.mark.parametrize("suffix", ["heic", "gif", "avif", "jp2", "ppm"])
def test_images_of_other_types_are_copied_as_they_are(tmp_path, suffix):
    pillow_heif.register_heif_opener()
    kind = {"heic": "HEIF", "jp2": "JPEG2000"}.get(suffix)
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"out/a.{suffix}"
    Image.new("RGB", (30, 20), "red").save(source, kind)
    copy_image(source, target)
    assert target.read_bytes() == source.read_bytes()
