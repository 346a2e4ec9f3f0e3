import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from workflow_scripts import evaluate
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards

CLASSES = ("cat", "dog", "car")
IMAGES = 6
SETTINGS = {
    "dataset": {
        "adapter": "voc",
        "ground_truth": True,
        "classes": list(CLASSES),
        "splits": {"val": "val"},
    },
    "clustering": {"clusters": 3},
}
RENAMED = np.array([0, 2, 3, 1], dtype=np.uint8)  # class → cluster


@pytest.fixture
def tree(tmp_path):
    """A folder in VOC's layout with manifests of two shards, and image id → ground truth."""
    rng = np.random.default_rng(0)
    (tmp_path / "SegmentationClass").mkdir()
    truth = {}
    for i in range(IMAGES):
        labels = np.kron(rng.integers(0, 4, (3, 4)), np.ones((8, 8))).astype(np.uint8)
        labels[:2] = 255
        Image.fromarray(labels).save(tmp_path / "SegmentationClass" / f"{i}.png")
        truth[i] = labels
    for shard in range(2):
        rows = [
            {"image_id": i, "file_name": f"JPEGImages/{i}.jpg", "shard": shard, "status": "ok"}
            for i in range(shard, IMAGES, 2)
        ]
        bad = {"image_id": 90 + shard, "file_name": f"bad{shard}.jpg", "status": "empty file"}
        rows.append(bad)
        shards.write_table(tmp_path / f"images{shard}.parquet", "images", rows, {})
    return tmp_path, truth


def write_step(path, labels):
    rows = [label_maps.row(i, f"JPEGImages/{i}.jpg", array) for i, array in labels.items()]
    shards.write_table(path, "label_maps", rows, {})
    return str(path)


def call(root, *steps, settings=SETTINGS, workers=2, options=(), tolerated=2):
    options = [*options, "--max-rejected", "0.01", str(tolerated)]
    options += [f"--root={root}", "--split=val", f"--workers={workers}"]
    options += ["--images", str(root / "images0.parquet"), str(root / "images1.parquet")]
    for step in steps:
        options += ["--step", *step]
    options += [f"--output={root / 'metrics.json'}", f"--per-class-csv={root / 'per_class.csv'}"]
    options += [f"--per-class-parquet={root / 'per_class.parquet'}"]
    assert evaluate.main([*options, "--settings", json.dumps(settings)]) == 0
    return json.loads((root / "metrics.json").read_text())


def test_images_that_cannot_be_used_are_counted_over_all_shards(tree):
    root, truth = tree
    step = write_step(root / "perfect.parquet", {i: 0 * labels for i, labels in truth.items()})
    with pytest.raises(InputError, match=r"'val': 2 of 8 images .*bad0\.jpg: .*bad1\.jpg: empty"):
        call(root, ["perfect", step], tolerated=1)
    assert not (root / "metrics.json").exists()


def test_perfect_and_empty_predictions(tree):
    root, truth = tree
    perfect = {i: RENAMED[np.where(t == 255, 0, t)] for i, t in truth.items()}
    empty = {i: np.zeros_like(t) for i, t in truth.items()}
    halves = [{i: a for i, a in perfect.items() if i % 2 == s} for s in range(2)]
    result = call(
        root,
        ["initial_masks", write_step(root / "e.parquet", empty)],
        ["segmentation", *(write_step(root / f"p{s}.parquet", halves[s]) for s in range(2))],
    )
    assert list(result["steps"]) == ["initial_masks", "segmentation"]
    assert result["images"] == IMAGES
    assert result["class_names"] == ["background", *CLASSES]
    assert result["provenance"]["settings"] == SETTINGS

    best = result["steps"]["segmentation"]
    assert best["miou"] == best["pixel_accuracy"] == best["boundary_iou"] == 1.0
    assert best["nmi"] == best["ari"] == best["purity"] == pytest.approx(1)
    assert best["matching"] == {
        "method": "hungarian",
        "clusters": {"0": "background", "2": "cat", "3": "dog", "1": "car"},
    }
    pixels = np.concatenate([t[t != 255] for t in truth.values()])
    counts = np.array(best["confusion_matrix"])
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(pixels))

    none = result["steps"]["initial_masks"]
    background = (pixels == 0).mean()
    assert none["pixel_accuracy"] == pytest.approx(background)
    assert none["miou"] == pytest.approx(background / 4)
    assert none["matching"]["clusters"] == {"0": "background", "1": None, "2": None, "3": None}


def test_per_class_tables_agree(tree):
    root, truth = tree
    perfect = {i: RENAMED[np.where(t == 255, 0, t)] for i, t in truth.items()}
    call(root, ["segmentation", write_step(root / "p.parquet", perfect)])
    rows = pq.read_table(root / "per_class.parquet").to_pylist()
    expected = {"step": "segmentation", "matching": "hungarian", "class": "cat", "clusters": "2"}
    assert rows[1].items() >= {**expected, "iou": 1.0}.items()
    with open(root / "per_class.csv", newline="") as file:
        as_text = list(csv.DictReader(file))
    assert as_text == [{name: str(value) for name, value in row.items()} for row in rows]


def test_the_number_of_workers_changes_nothing(tree):
    root, truth = tree
    rng = np.random.default_rng(1)
    noisy = {i: rng.integers(0, 4, t.shape).astype(np.uint8) for i, t in truth.items()}
    step = ["segmentation", write_step(root / "n.parquet", noisy)]
    assert call(root, step, workers=1) == call(root, step, workers=4)


def test_more_clusters_than_classes_are_labelled_majority(tree):
    root, truth = tree
    split_up = {}
    for i, t in truth.items():
        labels = np.where(t == 255, 0, t).astype(np.uint8)
        right = labels[:, 16:]
        right[right == 1] = 5  # cats in the right part of an image are cluster 5
        split_up[i] = labels
    step = ["segmentation", write_step(root / "s.parquet", split_up)]
    entry = call(root, step, settings=SETTINGS | {"clustering": {"clusters": 5}})["steps"][
        "segmentation"
    ]
    assert entry["matching"]["method"] == "majority"
    table = pq.read_table(root / "per_class.parquet")
    assert set(table["matching"].to_pylist()) == {"majority"}
    assert entry["per_class"]["cat"]["clusters"] == [1, 5]
    assert entry["miou"] == 1.0


@pytest.mark.parametrize("change", ["missing", "extra", "other", "twice"])
def test_other_images_than_the_manifests_are_an_error(tree, change):
    root, truth = tree
    labels = {i: np.zeros_like(t) for i, t in truth.items()}
    paths = []
    if change in ("extra", "other"):
        labels[90] = labels[0]  # an image that the manifest rejects
        Image.fromarray(truth[0]).save(root / "SegmentationClass" / "90.png")
    if change in ("missing", "other"):
        del labels[0]
    if change == "twice":
        paths.append(write_step(root / "again.parquet", {0: labels[0]}))
    paths.append(write_step(root / "labels.parquet", labels))
    with pytest.raises(InputError, match="step initial_masks"):
        call(root, ["initial_masks", *paths])
    assert not (root / "metrics.json").exists()


def test_a_label_map_of_another_size_names_its_image(tree):
    root, truth = tree
    labels = {i: np.zeros_like(t) for i, t in truth.items()}
    labels[3] = labels[3][:-1]
    with pytest.raises(InputError, match=r"JPEGImages/3\.jpg"):
        call(root, ["initial_masks", write_step(root / "l.parquet", labels)])


def test_supervised_label_maps_are_not_matched(tree):
    root, truth = tree
    clean = {i: np.where(t == 255, 0, t).astype(np.uint8) for i, t in truth.items()}
    renamed = {i: RENAMED[labels] for i, labels in clean.items()}
    steps = [["linear_probe", write_step(root / "c.parquet", clean)]]
    steps += [["renamed", write_step(root / "r.parquet", renamed)]]
    settings = SETTINGS | {"clustering": {"clusters": 40}}
    result = call(root, *steps, settings=settings, options=["--supervised"])
    assert result["clusters"] == 3
    right, wrong = result["steps"].values()
    assert right["matching"]["method"] == "supervised"
    assert right["miou"] == right["boundary_iou"] == 1.0
    assert [entry["iou"] for entry in wrong["per_class"].values()] == [1.0, 0.0, 0.0, 0.0]
