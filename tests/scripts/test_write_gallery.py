import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import results_tree
from workflow_scripts import write_gallery
from workflow_scripts.maskdistill import label_maps, masks, shards
from workflow_scripts.maskdistill.errors import InputError


def content(script: Path):
    """What a script hands to the page."""
    text = script.read_text(encoding="ascii")
    return json.loads(text[text.index("(") + 1 : text.rindex(")")])


def decoded(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGBA"))


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
    assert 0.5 < image["agreement"]["masks"] < 1
    missed = by_name(index)[results_tree.WITHOUT_CANDIDATE]
    # Nothing found: background is right where it is, and the class is missed.
    truth = 19 * 28 / (40 * 60 - 28)
    assert missed["agreement"]["mask_rcnn"] == pytest.approx((1 - truth) / 2, abs=1e-4)
    assert by_name(index)["JPEGImages/0.jpg"]["agreement"] == {}


def test_clusters_wear_the_colours_of_their_classes(index):
    stages = {stage["id"]: stage for stage in index["stages"]}
    assert list(stages) == ["masks", "candidates", "mask_rcnn", "segmentation", "ground_truth"]
    cat, dog = stages["ground_truth"]["labels"]
    first, second = stages["segmentation"]["labels"]
    assert (first["class"], second["class"]) == ("dog", "cat")
    assert (first["colour"], second["colour"]) == (dog["colour"], cat["colour"])


def test_named_clusters(results, tmp_path):
    options = results_tree.gallery_options(results, tmp_path / "gallery", truth=False)
    settings = json.loads(options[0].removeprefix("--settings="))
    settings["curation"] = {"classes": [2, 1], "names": ["<bird>", "cluster_002"]}
    options[0] = f"--settings={json.dumps(settings)}"
    assert write_gallery.main(options) == 0
    index = content(tmp_path / "gallery" / "index.js")
    stages = {stage["id"]: stage for stage in index["stages"]}
    assert [label["name"] for label in stages["masks"]["labels"]] == ["<bird>", "cluster 2"]
    # Cluster 2 is pseudo-class 1 here.
    assert by_name(index)["JPEGImages/6.jpg"]["labels"]["masks"] == [1]


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


def test_without_metrics_no_label_is_read(results, tmp_path, monkeypatch):
    def forbidden(*_):
        raise AssertionError("labels are read")

    monkeypatch.setattr("workflow_scripts.maskdistill.gallery.stages.GroundTruth", forbidden)
    options = results_tree.gallery_options(results, tmp_path / "gallery", truth=False)
    assert write_gallery.main(options) == 0
    found = content(tmp_path / "gallery" / "index.js")
    assert found["evaluated"] is None
    assert "ground_truth" not in [stage["id"] for stage in found["stages"]]
    colours = [label["colour"] for label in found["stages"][0]["labels"]]
    assert colours == ["#800000", "#008000"]


def test_workers_change_nothing_and_old_files_go(results, gallery, tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "old.js").write_text("old")
    options = results_tree.gallery_options(results, tmp_path / "gallery")
    assert write_gallery.main([*options, "--workers=2"]) == 0
    files = {path.relative_to(gallery): path for path in gallery.rglob("*") if path.is_file()}
    again = {p.relative_to(tmp_path / "gallery"): p for p in (tmp_path / "gallery").rglob("*.*")}
    assert {name: path.read_bytes() for name, path in files.items()} == {
        name: path.read_bytes() for name, path in again.items()
    }


def test_shards_that_do_not_fit_together_are_an_error(results, tmp_path):
    options = results_tree.gallery_options(results, tmp_path / "gallery")
    at = options.index("--masks")
    with pytest.raises(InputError, match="masks of train: 1 shards, but 2 manifests"):
        write_gallery.main(options[: at + 2] + options[at + 3 :])
    first, second = at + 2, at + 3
    options[first], options[second] = options[second], options[first]
    assert not (tmp_path / "gallery").exists()


def test_missing_metrics_are_an_error(results, tmp_path):
    options = results_tree.gallery_options(results, tmp_path / "gallery", truth=False)
    with pytest.raises(InputError, match="run evaluate first"):
        write_gallery.main([*options, f"--metrics={tmp_path / 'none.json'}"])


def test_memory_does_not_grow_with_the_number_of_shards(many):
    all_, one = (int((many / name / "peak").read_text()) / 1024 for name in ("all", "one"))
    # MB. Twenty times the images: the rows of the index are what is kept of each.
    assert all_ - one < 60
    assert len(content(many / "all" / "gallery" / "index.js")["images"]) == 10_000
