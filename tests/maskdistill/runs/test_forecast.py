import pytest

from workflow_scripts.maskdistill.runs import forecast

CATALOGUE = {
    "datasets": {"coco": {"images": {"train.json": 100, "train_aug": 50, "val": 7}}},
}
CONFIG = {
    "dataset": {
        "root": "data/coco",
        "download": "coco",
        "generate": None,
        "adapter": "voc",
        "splits": {"train": "train_aug", "val": "val"},
        "ground_truth": True,
    },
    "seeds": [0, 1],
    "store_features": True,
    "features": {"shorter_side": 640, "longer_side": None, "tokens": False},
    "masks": {"per_image": 1},
    "embedding": {"backbone": None, "input": "masked_image", "crop_side": 224},
    # At the sizes that the seconds are stated for.
    "mask_rcnn": {
        **{"enabled": True, "iterations": 10, "batch_size": 16},
        "train_sides": [*range(480, 801, 32)],
    },
    "candidates": {"per_image": 100, "shorter_side": 800},
    "segmentation": {"model": "deeplab", "epochs": 3, "crop_size": 512, "output_stride": 8},
    "crf": {"enabled": True, "rounds": 0},
    "evaluation": {"objects": True, "linear_probe": {"enabled": False, "epochs": 2}},
}
THROUGHPUT = {
    rule: {"seconds": seconds, "per": "image"}
    for rule, seconds in {
        "extract_features": 1,
        "extract_masks": 1,
        "embed_masks": 2,
        "train_mask_rcnn": 3,
        "predict_candidates": 4,
        "train_segmentation": 5,
        "predict_segmentation": 6,
        "refine_predictions": 7,
        "train_linear_probe": 8,
        "predict_linear_probe": 9,
        "refine_linear_probe": 10,
    }.items()
}
COUNTS = {"train": 50, "val": 7}
VIT_S16 = forecast.Backbone(patch_size=16, width=384, heads=6)
VIT_S8 = forecast.Backbone(patch_size=8, width=384, heads=6)
NETWORKS = forecast.Networks(VIT_S16, VIT_S16)
PROBED = {
    **CONFIG,
    "evaluation": {"objects": True, "linear_probe": {"enabled": True, "epochs": 2}},
}


def coco(**split):
    dataset = {**CONFIG["dataset"], "adapter": "coco"}
    dataset["splits"] = {"train": {"annotations": "train.json", "images": "train", **split}}
    return {**CONFIG, "dataset": dataset}


@pytest.fixture(autouse=True)
def without_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_images_of_data_that_are_not_here(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{image_id}\n" for image_id in range(30)))
    assert forecast.split_counts(CONFIG, CATALOGUE) == COUNTS
    assert forecast.split_counts(coco(), CATALOGUE) == {"train": 100}
    assert forecast.split_counts(coco(image_list="list.txt"), CATALOGUE) == {"train": 30}
    assert forecast.split_counts(coco(excluded_list="list.txt"), CATALOGUE) == {"train": 70}


def test_images_of_data_that_are_here(tmp_path):
    own = {"root": str(tmp_path), "download": None, "generate": None, "adapter": "folder"}
    own["ground_truth"] = False
    (tmp_path / "a.jpg").touch()
    config = {**CONFIG, "dataset": {**own, "splits": {"train": "."}}}
    assert forecast.split_counts(config, CATALOGUE) == {"train": 1}
    made = {"generate": {"train": 5, "val": 4, "seed": 1}}
    made["splits"] = {"train": "train", "val": "val", "instances": "train"}
    config = {**CONFIG, "dataset": {**CONFIG["dataset"], **made}}
    counts = forecast.split_counts(config, CATALOGUE)
    assert counts == {"train": 5, "val": 4, "instances": 5}
    config["evaluation"] = {**CONFIG["evaluation"], "objects": False}
    assert forecast.split_counts(config, CATALOGUE) == {"train": 5, "val": 4}


def gpu_seconds(config=CONFIG, counts=COUNTS, networks=NETWORKS, **options):
    return forecast.gpu_seconds(config, counts, THROUGHPUT, networks, **options)


def test_gpu_seconds():
    expected = {
        "extract_features": 57,
        "embed_masks": 2 * 57,
        "train_mask_rcnn": 3 * 2 * 10 * 16,
        "predict_candidates": 4 * 2 * 57,
        "train_segmentation": 5 * 2 * 3 * 50,
        "predict_segmentation": 6 * 2 * 7,
        "refine_predictions": 7 * 2 * 7,
    }
    assert gpu_seconds() == expected
    assert gpu_seconds(PROBED) == expected | {
        "train_linear_probe": 8 * 2 * 2 * 50,
        "predict_linear_probe": 9 * 2 * 7,
        "refine_linear_probe": 10 * 2 * 7,
    }
    without = {**CONFIG, "crf": {"enabled": False, "rounds": 0}}
    assert gpu_seconds(without)["refine_predictions"] == 0
    again = {**CONFIG, "crf": {"enabled": True, "rounds": 1}}
    assert gpu_seconds(again)["train_segmentation"] == 2 * 5 * 2 * 3 * 50
    # Two rounds of what is evaluated, and one of the training images, to learn from.
    assert gpu_seconds(again)["refine_predictions"] == 7 * 2 * (2 * 7 + 50)
    probes = gpu_seconds({**PROBED, "crf": {"enabled": True, "rounds": 1}})
    assert probes["train_linear_probe"] == 2 * 8 * 2 * 2 * 50
    assert probes["refine_linear_probe"] == 2 * 10 * 2 * 7
    more = gpu_seconds(counts={**COUNTS, "instances": 3})
    assert more["predict_candidates"] == 4 * 2 * 60
    assert more["predict_segmentation"] == expected["predict_segmentation"]
    assert gpu_seconds(support=True) == {"extract_features": 50, "embed_masks": 100}


def test_embeddings_of_crops_take_less_time_than_those_of_images():
    whole = gpu_seconds()["embed_masks"]
    crops = {**CONFIG, "embedding": {**CONFIG["embedding"], "input": "box_crop", "crop_side": 320}}
    assert gpu_seconds(crops)["embed_masks"] == pytest.approx(whole * 20**2 / 2160)
    uncut = {**crops, "embedding": {**crops["embedding"], "crop_side": None}}
    assert gpu_seconds(uncut)["embed_masks"] == whole


def test_the_decoder_on_a_transformer_costs_a_fraction_of_its_passes():
    quick = {
        **CONFIG,
        "mask_rcnn": {**CONFIG["mask_rcnn"], "enabled": False},
        "segmentation": {**CONFIG["segmentation"], "model": "vit_head"},
    }
    found = gpu_seconds(quick)
    assert {"train_mask_rcnn", "predict_candidates", "train_segmentation"}.isdisjoint(found)
    epochs = 3
    assert found["train_vit_head"] == pytest.approx(2 * 50 * forecast.WINDOW_SHARE * epochs)
    assert found["predict_segmentation"] == pytest.approx(2 * 7 * forecast.LABEL_MAP_SHARE)
    assert found["refine_predictions"] == pytest.approx(2 * 7 * forecast.LABEL_MAP_SHARE)
    quick["segmentation"]["crop_size"] = 256
    windows = gpu_seconds(quick)["train_vit_head"]
    assert windows == pytest.approx(2 * 50 * forecast.WINDOW_SHARE * epochs / 4)


def test_gpu_seconds_of_other_networks():
    assert gpu_seconds(networks=forecast.Networks(VIT_S16, VIT_S8))["embed_masks"] == pytest.approx(
        2 * 57 * forecast.patches(CONFIG["features"], 8) / 2160
    )
    resnet = forecast.Backbone(patch_size=None, width=512, heads=0)
    networks = forecast.Networks(VIT_S16, resnet)
    assert gpu_seconds(networks=networks)["embed_masks"] == 2 * 57
    assert forecast.disk_bytes(CONFIG, COUNTS, networks)["mask_embeddings"] == 57 * 4 * 512


def test_disk_bytes():
    # 640 x 853 pixels are 40 x 54 patches.
    assert forecast.patches(CONFIG["features"], 16) == 40 * 54 == forecast.STATED_PATCHES
    needed = forecast.disk_bytes(CONFIG, COUNTS, NETWORKS)
    assert needed["features"] == 57 * 2160 * (2 * 384 + 4 * 6)
    with_tokens = {**CONFIG, "features": {**CONFIG["features"], "tokens": True}}
    stored = forecast.disk_bytes(with_tokens, COUNTS, NETWORKS)
    assert stored == needed | {"features": needed["features"] + 57 * 2160 * 2 * 384}
    assert needed["mask_embeddings"] == 57 * 4 * 384
    assert needed["candidates (at most)"] == 2 * 57 * 100 * forecast.RUN_LENGTHS
    # Of candidates on both splits, and of initial masks on what is evaluated.
    assert needed["label maps"] == 2 * (57 + 7) * forecast.LABEL_MAP
    assert needed["predictions"] == 2 * 2 * 7 * forecast.LABEL_MAP
    assert needed["models"] == 4 * forecast.MODEL
    probed = forecast.disk_bytes(PROBED, COUNTS, NETWORKS)
    assert probed["models"] == 6 * forecast.MODEL
    assert probed["linear probe"] == (50 + 2 * 2 * 7) * forecast.LABEL_MAP
    again = forecast.disk_bytes({**PROBED, "crf": {"enabled": True, "rounds": 1}}, COUNTS, NETWORKS)
    assert again["models"] == 10 * forecast.MODEL
    assert again["linear probe"] == (50 + 2 * 2 * 2 * 7) * forecast.LABEL_MAP
    # One list for both.
    single = forecast.disk_bytes(CONFIG | coco(), {"train": 50}, NETWORKS)
    assert single["label maps"] == 2 * (50 + 50) * forecast.LABEL_MAP
    support = forecast.disk_bytes(CONFIG, COUNTS, NETWORKS, support=True)
    assert set(support) == {"images", "features", "masks", "mask_embeddings"}
    assert support["features"] == 50 * 2160 * (2 * 384 + 4 * 6)


def test_features_that_are_not_stored():
    config = {**CONFIG, "store_features": False}
    seconds = forecast.gpu_seconds(config, COUNTS, THROUGHPUT, NETWORKS)
    stored = forecast.gpu_seconds(CONFIG, COUNTS, THROUGHPUT, NETWORKS)
    assert seconds == {
        {"extract_features": "extract_masks"}.get(rule, rule): value
        for rule, value in stored.items()
    }
    disk = forecast.disk_bytes(config, COUNTS, NETWORKS)
    assert disk == {**forecast.disk_bytes(CONFIG, COUNTS, NETWORKS), "features": 0}


def test_download_sizes():
    catalogue = {
        "datasets": {
            "coco": {"archives": [{"url": "http://a", "bytes": 1000}, {"url": "http://b"}]}
        },
        "files": {
            "known": {"url": "http://c", "bytes": 5},
            "estimated": {"url": "http://d", "expected_bytes": 6},
            "unknown": {"url": "http://e"},
            "unused": {"url": "http://f"},
        },
    }
    stages = ("features", "embedding", "mask_rcnn", "segmentation")
    weights = {
        stage: {"weights": path}
        for stage, path in zip(stages, ("known", "estimated", "unknown", None), strict=True)
    }
    for stage in ("features", "embedding"):
        weights[stage]["backbone"] = "vit_small_patch16_224"
    config = {"dataset": CONFIG["dataset"], **weights}
    assert forecast.download_sizes([config, config], catalogue) == (
        {"data/coco": 1000 * (1 + forecast.UNPACKED), "estimated": 6, "known": 5},
        ["http://b", "http://e"],
    )
    path = "data/weights/vit_small_patch16_224.safetensors"
    weights["features"]["weights"] = path
    _, unknown = forecast.download_sizes([{**config, **weights}], catalogue)
    assert unknown == ["http://b", "http://e", f"{path} (timm's hub)"]
