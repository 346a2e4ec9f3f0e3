import pytest

from workflow_scripts.maskdistill import plan

CATALOGUE = {
    "datasets": {"coco": {"images": {"train.json": 100, "train_aug": 50, "val": 7}}},
    "files": {"list.txt": {"url": "http://a", "images": 30}},
}
CONFIG = {
    "dataset": {
        "root": "data/coco",
        "download": "coco",
        "generate": None,
        "adapter": "voc",
        "splits": {"train": "train_aug", "val": "val"},
    },
    "seeds": [0, 1],
    "features": {"shorter_side": 640, "longer_side": None},
    "masks": {"per_image": 1},
    "mask_rcnn": {"iterations": 10, "batch_size": 16, "candidates_per_image": 100},
    "segmentation": {"epochs": 3},
    "crf": {"enabled": True, "rounds": 0},
}
THROUGHPUT = {
    rule: {"seconds": seconds, "per": "image"}
    for rule, seconds in {
        "extract_features": 1,
        "embed_masks": 2,
        "train_mask_rcnn": 3,
        "predict_candidates": 4,
        "train_segmentation": 5,
        "predict_segmentation": 6,
        "refine_predictions": 7,
    }.items()
}
COUNTS = {"train": 50, "val": 7}


def coco(**split):
    dataset = {**CONFIG["dataset"], "adapter": "coco"}
    dataset["splits"] = {"train": {"annotations": "train.json", "images": "train", **split}}
    return {**CONFIG, "dataset": dataset}


@pytest.fixture(autouse=True)
def without_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_images_of_data_that_are_not_here():
    assert plan.split_counts(CONFIG, CATALOGUE) == COUNTS
    assert plan.split_counts(coco(), CATALOGUE) == {"train": 100}
    assert plan.split_counts(coco(image_list="list.txt"), CATALOGUE) == {"train": 30}
    assert plan.split_counts(coco(excluded_list="list.txt"), CATALOGUE) == {"train": 70}


def test_images_of_data_that_are_here(tmp_path):
    own = {"root": str(tmp_path), "download": None, "generate": None, "adapter": "folder"}
    (tmp_path / "a.jpg").touch()
    config = {**CONFIG, "dataset": {**own, "splits": {"train": "."}}}
    assert plan.split_counts(config, CATALOGUE) == {"train": 1}
    made = {**CONFIG["dataset"], "generate": {"train": 5, "val": 4, "seed": 1}}
    assert plan.split_counts({**CONFIG, "dataset": made}, CATALOGUE) == {"train": 5, "val": 4}


def test_gpu_seconds():
    assert plan.gpu_seconds(CONFIG, COUNTS, THROUGHPUT) == {
        "extract_features": 57,
        "embed_masks": 2 * 57,
        "train_mask_rcnn": 3 * 2 * 10 * 16,
        "predict_candidates": 4 * 2 * 57,
        "train_segmentation": 5 * 2 * 3 * 50,
        "predict_segmentation": 6 * 2 * 7,
        "refine_predictions": 7 * 2 * 7,
    }
    without = {**CONFIG, "crf": {"enabled": False, "rounds": 0}}
    assert plan.gpu_seconds(without, COUNTS, THROUGHPUT)["refine_predictions"] == 0
    again = {**CONFIG, "crf": {"enabled": True, "rounds": 1}}
    seconds = plan.gpu_seconds(again, COUNTS, THROUGHPUT)
    assert seconds["train_segmentation"] == 2 * 5 * 2 * 3 * 50
    # Two rounds of what is evaluated, and one of the training images, to learn from.
    assert seconds["refine_predictions"] == 7 * 2 * (2 * 7 + 50)
    assert plan.support_gpu_seconds(CONFIG, COUNTS, THROUGHPUT) == {
        "extract_features": 50,
        "embed_masks": 100,
    }


def test_disk_bytes():
    backbone = plan.Backbone(patch_size=16, width=384, heads=6)
    # 640 x 853 pixels are 40 x 54 patches.
    assert plan.patches(CONFIG["features"], 16) == 40 * 54
    needed = plan.disk_bytes(CONFIG, COUNTS, backbone)
    assert needed["features"] == 57 * 2160 * (2 * 384 + 4 * 6)
    assert needed["mask_embeddings"] == 57 * 4 * 384
    assert needed["candidates (at most)"] == 2 * 57 * 100 * plan.RUN_LENGTHS
    assert needed["label maps"] == 2 * (57 + 3 * 7) * plan.LABEL_MAP
    assert needed["models"] == 4 * plan.MODEL
    support = plan.disk_bytes(CONFIG, COUNTS, backbone, support=True)
    assert set(support) == {"features", "masks", "mask_embeddings"}
    assert support["features"] == 50 * 2160 * (2 * 384 + 4 * 6)


def test_downloads():
    source = {"archives": [{"url": "http://a", "bytes": 1000}, {"url": "http://b"}]}
    assert plan.download_bytes(source) == (1000 * (1 + plan.UNPACKED), ["http://b"])


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (37_600_000_000, "37.6 GB"), (2e15, "2e+03 TB")]
)
def test_units(size, text):
    assert plan.in_units(size) == text


def test_table():
    lines = list(plan.table(("rule", "jobs"), [("evaluate", 5), ("all", 100)]))
    assert lines == ["rule      jobs", "evaluate     5", "all        100"]
