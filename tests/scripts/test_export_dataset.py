import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from workflow_scripts import export_dataset, write_applied
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, masks, shards

SIZE = (20, 30)
NAMES = ["bird", "boat"]


def square(y, x):
    mask = np.zeros(SIZE, bool)
    mask[y : y + 6, x : x + 9] = True
    return mask


@pytest.fixture
def folder(tmp_path, write_manifest):
    """Two shards with three good images and a broken one, and ground truth in VOC's layout."""
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / name).mkdir()
    parts = [{0: "a", 1: "b"}, {2: "c"}]
    for part, listed in enumerate(parts):
        images, predicted, rows = {}, [], []
        for number, stem in listed.items():
            name = f"JPEGImages/{stem}.jpg"
            Image.new("RGB", SIZE[::-1], (0, 80 * number, 0)).save(tmp_path / name)
            truth = square(1, 2).astype(np.uint8)
            Image.fromarray(truth).save(tmp_path / f"SegmentationClass/{stem}.png")
            images[number] = (name, *SIZE)
            labels = np.where(square(3, 4 + number), 2, 0).astype(np.uint8)
            predicted.append(label_maps.row(number, name, labels))
            rows.append({"image_id": number, "height": SIZE[0], "width": SIZE[1]})
            if number != 1:
                encoded = masks.encode(square(3, 4 + number))._asdict()
                rows[-1] |= {"candidate_id": 0, "cluster": 2, "score": 0.5, **encoded}
        if part == 1:
            images[9] = ("JPEGImages/bad.jpg", None, None, "empty file (0 bytes)")
        write_manifest(tmp_path / f"images-{part}", images)
        shards.write_table(tmp_path / f"predictions-{part}", "predictions", predicted, {})
        shards.write_table(tmp_path / f"confident-{part}", "confident", rows, {})
    categories = [{"id": 1, "name": "cluster_001"}, {"id": 2, "name": "cluster_002"}]
    pseudo = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "pseudo.json").write_text(json.dumps(pseudo))
    return tmp_path


def shard_options(folder, parts=(0, 1)):
    options = [f"--root={folder}"]
    for stage in ("images", "confident", "predictions"):
        options += [f"--{stage}", *(str(folder / f"{stage}-{part}") for part in parts)]
    return options


def export(folder, name, ground_truth=True, **options):
    settings = {
        "curation": {"names": NAMES},
        "dataset": {"adapter": "voc", "ground_truth": ground_truth, "classes": ["thing"]},
        "exports": {"polygons": False, "polygon_tolerance": 1.0},
    }
    arguments = [f"--settings={json.dumps(settings)}", f"--format={name}", "--dataset=mine"]
    arguments += ["--split=val", f"--pseudo-labels={folder / 'pseudo.json'}"]
    arguments += [f"--output={folder / 'out' / name}", *shard_options(folder, **options)]
    assert export_dataset.main(arguments) == 0
    return folder / "out" / name


@pytest.mark.parametrize("name", export_dataset.WRITERS)
def test_every_format_is_written_from_shards(folder, name):
    out = export(folder, name)
    assert list(out.iterdir())
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_names_are_those_that_people_gave(folder):
    dataset = COCO(export(folder, "coco") / "predictions.json")
    assert len(dataset.imgs) == 3
    assert {dataset.cats[a["category_id"]]["name"] for a in dataset.anns.values()} == {"boat"}
    np.testing.assert_array_equal(dataset.annToMask(dataset.anns[2]), square(3, 6))


@pytest.mark.parametrize("ground_truth", [True, False])
def test_ground_truth_goes_along_where_there_is_any(folder, ground_truth):
    out = export(folder, "fiftyone", ground_truth)
    samples = json.loads((out / "samples.json").read_text())["samples"]
    assert [sample["filepath"] for sample in samples] == ["data/a.jpg", "data/b.jpg", "data/c.jpg"]
    assert ["ground_truth" in sample for sample in samples] == [ground_truth] * 3
    if ground_truth:
        found = label_maps.read_png(out / samples[0]["ground_truth"]["mask_path"])
        np.testing.assert_array_equal(found, square(1, 2))


def test_shards_that_do_not_fit(folder):
    shards.write_table(folder / "confident-1", "confident", [], {})
    with pytest.raises(InputError, match=r"confident-1: images differ .*missing ids: \[2\]"):
        export(folder, "coco")
    assert not (folder / "out" / "coco").exists()


def test_applied_images(folder):
    out = folder / "applied"
    settings = json.dumps({"curation": {"names": NAMES}})
    options = [f"--settings={settings}", *shard_options(folder)]
    options += [f"--label-maps={out / 'label_maps'}", f"--overlays={out / 'overlays'}"]
    options += [f"--objects={out / 'objects.json'}", f"--rejected={out / 'rejected.csv'}"]
    assert write_applied.main(options) == 0
    for number, stem in enumerate("abc"):
        labels = label_maps.read_png(out / f"label_maps/{stem}.png")
        np.testing.assert_array_equal(labels, np.where(square(3, 4 + number), 2, 0))
        with Image.open(out / f"overlays/{stem}.jpg") as image:
            assert image.size == SIZE[::-1]
    assert "boat:0,128,0::" in (out / "label_maps/labelmap.txt").read_text()
    assert len(COCO(out / "objects.json").anns) == 2
    assert (out / "rejected.csv").read_text().splitlines() == [
        "file_name,status",
        "JPEGImages/bad.jpg,empty file (0 bytes)",
    ]
