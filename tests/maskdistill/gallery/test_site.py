import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import results_tree
from workflow_scripts.maskdistill.files import atomic, label_maps, masks, shards
from workflow_scripts.maskdistill.gallery import site


def content(script: Path):
    """What a script hands to the page."""
    text = script.read_text(encoding="ascii")
    return json.loads(text[text.index("(") + 1 : text.rindex(")")])


def decoded(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


@pytest.fixture(scope="module")
def gallery(results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gallery") / "gallery"
    site.write(results_tree.gallery_inputs(results), folder, record={"stage": "gallery"})
    return folder


@pytest.fixture
def index(gallery) -> dict:
    return content(gallery / "index.js")


def by_name(index: dict) -> dict[str, dict]:
    return {image["name"]: image for image in index["images"]}


def test_every_image_of_every_split_has_a_row_and_its_files(gallery, index):
    listed = [(image["split"], image["name"]) for image in index["images"]]
    assert sorted(listed) == sorted((s, n) for s, ns in results_tree.NAMES.items() for n in ns)
    for image in index["images"]:
        path = gallery / "images" / image["split"] / f"{image['shard']:04d}" / str(image["id"])
        shown = image["name"] != results_tree.REJECTED
        assert path.with_suffix(".js").exists() == path.with_suffix(".jpg").exists() == shown
    assert sorted(path.name for path in gallery.iterdir()) == [
        atomic.FOLDER_MARK,
        "gallery.css",
        "gallery.js",
        "images",
        "index.html",
        "index.js",
    ]


def test_statuses_say_what_went_differently(index):
    found = {name: image["status"] for name, image in by_name(index).items()}
    assert found[results_tree.REJECTED] == ["rejected"]
    assert by_name(index)[results_tree.REJECTED]["reason"] == "truncated or damaged: <b>cut</b>"
    assert found[results_tree.WITHOUT_CANDIDATE] == ["no candidate"]
    assert found["JPEGImages/0.jpg"] == ["best candidate not above τ"]
    assert found["JPEGImages/6.jpg"] == []


def test_clusters_scores_and_agreement_to_filter_by(index):
    image = by_name(index)["JPEGImages/6.jpg"]
    assert image["labels"]["segmentation"] == [2]
    assert image["labels"]["ground_truth"] == [1]
    assert image["scores"] == [[2, 0.86], [1, 0.2]]
    assert image["agreement"]["segmentation"] == 1
    assert image["masks"] == 1
    assert index["evaluated"] == "val"
    assert index["matched"] == {"split": "val", "images": 3, "methods": ["hungarian"]}


def test_overlays_and_candidates_are_those_of_the_shards(results, gallery, index):
    image = by_name(index)[results_tree.EVIL]
    name = f"{image['shard']:04d}"
    path, shown = content(gallery / "images" / "val" / name / f"{image['id']}.js")
    assert path == f"val/{name}/{image['id']}"
    base = results / "results" / "tiny" / "seed-0"
    (row,) = shards.rows_of_image(base / f"round-0/val/predictions/{name}.parquet", image["id"])
    labels = label_maps.decode_png(row["image"]["bytes"])
    layer = decoded(shown["layers"]["segmentation"])
    np.testing.assert_array_equal(layer[..., 3] > 0, labels > 0)
    inner = layer[12, 24]
    np.testing.assert_array_equal(inner[:3], label_maps.PALETTE[2])  # cluster 1, class dog
    candidates = shards.rows_of_image(base / f"val/candidates/{name}.parquet", image["id"])
    assert [c["score"] for c in shown["candidates"]] == [0.81, 0.2]
    assert [c["confident"] for c in shown["candidates"]] == [True, False]
    best = max(candidates, key=lambda c: c["score"])
    mask = masks.decode(best["rle_counts"], 40, 60)
    np.testing.assert_array_equal(decoded(shown["candidates"][0]["layer"])[..., 3] > 0, mask)
    x, y, width, height = shown["candidates"][0]["box"]
    assert [60 * x, 40 * y, 60 * width, 40 * height] == pytest.approx([17, 9, 28, 19], abs=0.01)


def test_thumbnails_of_all_stages_stand_below_each_other(gallery, index):
    image = by_name(index)["JPEGImages/6.jpg"]
    with Image.open(gallery / "images" / "val" / "0001" / f"{image['id']}.jpg") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    tiles = np.split(pixels, len(image["tiles"]) + 1)
    truth, segmentation = (
        tiles[image["tiles"].index(s) + 1] for s in ("ground_truth", "segmentation")
    )
    # The evaluation ignores the object's first row; all else is the same.
    assert np.abs(truth - segmentation).mean() < 3
    assert np.abs(tiles[0] - segmentation).mean() > 8
