"""Estimates from the config what a run will need: images, GPU hours, disk space."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.files import image_sizes
from workflow_scripts.maskdistill.settings.backbones import is_from_timm
from workflow_scripts.maskdistill.settings.downloads import dataset_source
from workflow_scripts.maskdistill.settings.sections.candidates import CandidateSettings
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.settings.splits import (
    evaluated_split,
    instance_split,
    is_downloaded,
)

# Assumptions about what the config does not determine, in bytes unless stated otherwise.
ASPECT_RATIO = 4 / 3  # of a photograph
ROW = 100  # one row of a table without masks
RUN_LENGTHS = 400  # one mask, with its box and ids
LABEL_MAP = 8_000  # a PNG of 500 x 375
MODEL = 150_000_000  # ResNet-50 with its heads
CHECKPOINT = 3  # size of a training's checkpoints / size of the model; they include momentum
UNPACKED = 1.05  # size of the unpacked images / size of the archive; JPEGs hardly compress
# Times of the decoder of vit_head / time of one pass of ViT-S/16 over an image of STATED_PATCHES
# patches, measured on a CPU: for a step of the training and a window of 512 pixels, and for a
# label map of 375 x 500.
WINDOW_SHARE = 0.02
LABEL_MAP_SHARE = 0.15
STRIDE_16 = 0.3  # operations of DeepLab-v3 at stride 16 / at stride 8, counted with torch
# Patches of an image in resources/throughput.json: 640 x 864 pixels in patches of 16.
STATED_PATCHES = 2160


class Backbone(NamedTuple):
    """The properties of a network that determine its time and the size of its features."""

    patch_size: int | None  # None for a network that is no transformer
    width: int
    heads: int


class Networks(NamedTuple):
    """The networks that compute features and embeddings; often they are the same."""

    features: Backbone
    embedding: Backbone


def count_images(config: Mapping, split: str, catalogue: Mapping) -> int:
    """The number of images of a split: counted if they are on this machine, else as published.

    Raises:
        InputError: the images are not on this machine and cannot be downloaded.
    """
    dataset = config["dataset"]
    if dataset["generate"] is not None:
        return dataset["generate"][dataset["splits"][split]]
    root, value = Path(dataset["root"]), dataset["splits"][split]
    if not is_downloaded(config) or (root / "downloaded.json").is_file():
        return len(datasets.list_images(dataset, root, split))
    published = catalogue["datasets"][dataset["download"]]["images"]
    if isinstance(value, str):
        return published[value]
    count = published[value["annotations"]]
    if value.get("image_list"):
        count = len(datasets.read_image_list(value["image_list"]))
    if value.get("excluded_list"):
        count -= len(datasets.read_image_list(value["excluded_list"]))
    return count


def split_counts(config: Mapping, catalogue: Mapping) -> dict[str, int]:
    """Images of the splits that the workflow goes through: `train` and what is evaluated."""
    splits = ["train", evaluated_split(config)]
    if config["dataset"]["ground_truth"] and config["evaluation"]["objects"]:
        splits.append(instance_split(config))
    return {split: count_images(config, split, catalogue) for split in dict.fromkeys(splits)}


def _probed(config: Mapping) -> bool:
    enabled = config["evaluation"]["linear_probe"]["enabled"]
    return config["dataset"]["ground_truth"] and enabled


def networks_of(config: Mapping) -> Networks:
    """The networks that make features and embeddings, without their weights."""
    features = _backbone(config["features"])
    own = config["embedding"]["backbone"] is not None
    return Networks(features, _backbone(config["embedding"]) if own else features)


def _backbone(settings: Mapping) -> Backbone:
    """Patch size, width and heads of a network of timm."""
    import torch

    from workflow_scripts.maskdistill.discovery.timm_models import create_model

    with torch.device("meta"):
        model = create_model(settings["backbone"], settings["backbone_options"], "features")
    if not hasattr(model, "patch_embed"):
        return Backbone(None, model.num_features, 0)
    return Backbone(
        model.patch_embed.patch_size[0], model.embed_dim, model.blocks[0].attn.num_heads
    )


def gpu_seconds(
    config: Mapping,
    counts: Mapping[str, int],
    throughput: Mapping,
    networks: Networks,
    *,
    support: bool = False,
) -> dict[str, float]:
    """Seconds that every rule takes on one GPU for a dataset, over all its seeds.

    Args:
        counts: result of `split_counts`.
        throughput: rule → {seconds, per}, see resources/throughput.json.
        support: whether the dataset only supports the clustering of another one.
    """
    count = counts["train"] if support else sum(counts.values())
    features = _relative_size(config["features"], networks.features)
    embedding = _relative_size_of_a_mask(config, networks.embedding)
    extraction = "extract_features" if config["store_features"] else "extract_masks"
    amounts = {
        extraction: count * features,
        "embed_masks": count * config["masks"]["per_image"] * embedding,
    }
    if not support:
        seeds, rounds = len(config["seeds"]), config["crf"]["rounds"] + 1
        evaluated = counts[evaluated_split(config)]
        mask_rcnn, segmentation = config["mask_rcnn"], config["segmentation"]
        trained = (
            mask_rcnn["iterations"]
            * mask_rcnn["batch_size"]
            * _relative_area(mask_rcnn["train_sides"], MaskRCNNSettings().train_sides)
        )
        predicted = count * _relative_area(
            [config["candidates"]["shorter_side"]], [CandidateSettings().shorter_side]
        )
        stride = STRIDE_16 if segmentation["output_stride"] == 16 else 1
        learned = (
            counts["train"]
            * segmentation["epochs"]
            * stride
            * _relative_area([segmentation["crop_size"]], [SegmentationSettings().crop_size])
        )
        amounts |= {
            "train_mask_rcnn": seeds * trained,
            "predict_candidates": seeds * predicted,
            "train_segmentation": seeds * rounds * learned,
            "predict_segmentation": seeds * rounds * evaluated * stride,
            **refined_images(config, counts),
        }
        if _probed(config):
            epochs = config["evaluation"]["linear_probe"]["epochs"]
            amounts |= {
                "train_linear_probe": seeds * rounds * epochs * counts["train"],
                "predict_linear_probe": seeds * rounds * evaluated,
            }
        if not mask_rcnn["enabled"]:
            del amounts["train_mask_rcnn"], amounts["predict_candidates"]
        if segmentation["model"] == "vit_head":
            del amounts["train_segmentation"], amounts["predict_segmentation"]
    seconds = {rule: amount * throughput[rule]["seconds"] for rule, amount in amounts.items()}
    if not support and config["segmentation"]["model"] == "vit_head":
        one = throughput["extract_features"]["seconds"]
        # The decoder sees a window of every training image in every epoch.
        windows = segmentation["epochs"] * _relative_area([segmentation["crop_size"]], [512])
        learned = seeds * rounds * counts["train"] * windows
        seconds |= {
            "train_vit_head": learned * WINDOW_SHARE * one,
            "predict_segmentation": seeds * rounds * evaluated * LABEL_MAP_SHARE * one,
            "refine_predictions": amounts["refine_predictions"] * LABEL_MAP_SHARE * one,
        }
    return seconds


def refined_images(config: Mapping, counts: Mapping[str, int]) -> dict[str, int]:
    """Rule → number of label maps that it refines by a CRF, over all seeds.

    Args:
        counts: result of `split_counts`.
    """
    once = len(config["seeds"]) * config["crf"]["enabled"]
    evaluated = once * (config["crf"]["rounds"] + 1) * counts[evaluated_split(config)]
    found = {"refine_predictions": evaluated + once * _relabelled(config, counts)}
    return found | ({"refine_linear_probe": evaluated} if _probed(config) else {})


def _relative_size(features: Mapping, network: Backbone) -> float:
    """Time per image, relative to images of the size in resources/throughput.json."""
    if network.patch_size is None:
        return 1.0
    return patches(features, network.patch_size) / STATED_PATCHES


def _relative_size_of_a_mask(config: Mapping, network: Backbone) -> float:
    """Time per embedding, relative to images of the size in resources/throughput.json."""
    settings = config["embedding"]
    whole = settings["input"] == "masked_image" or settings["crop_side"] is None
    if whole or network.patch_size is None:
        return _relative_size(config["features"], network)
    return (settings["crop_side"] / network.patch_size) ** 2 / STATED_PATCHES


def _relative_area(sides: Sequence[float], stated: Sequence[float]) -> float:
    """Mean area of images of these sides, relative to those of resources/throughput.json."""
    return sum(a * a for a in sides) / len(sides) / (sum(b * b for b in stated) / len(stated))


def _relabelled(config: Mapping, counts: Mapping[str, int]) -> int:
    """Training images whose refined predictions are made for the next round only."""
    return config["crf"]["rounds"] * counts["train"] if len(counts) > 1 else 0


def disk_bytes(
    config: Mapping, counts: Mapping[str, int], networks: Networks, *, support: bool = False
) -> dict[str, float]:
    """Bytes on the disk that every stage takes for a dataset, over all its seeds, uncompressed.

    Args:
        counts: result of `split_counts`.
        support: whether the dataset only supports the clustering of another one.
    """
    count = counts["train"] if support else sum(counts.values())
    seeds = len(config["seeds"])
    masks = count * config["masks"]["per_image"]
    tokens = patches(config["features"], networks.features.patch_size)
    # Keys and tokens are float16, affinities float32.
    values = networks.features.width * (2 if config["features"]["tokens"] else 1)
    features = count * tokens * (2 * values + 4 * networks.features.heads)
    needed = {
        "images": count * ROW,
        "features": features if config["store_features"] else 0,
        "masks": masks * RUN_LENGTHS,
        "mask_embeddings": masks * 4 * networks.embedding.width,
    }
    if support:
        return needed
    rounds = config["crf"]["rounds"] + 1
    evaluated = counts[evaluated_split(config)]
    passes = 2 if config["crf"]["enabled"] else 1  # predictions, without and with CRF
    candidates = config["candidates"]["per_image"] * RUN_LENGTHS
    trainings = seeds * (1 + rounds * (1 + _probed(config)))
    labelled = counts["train"] + evaluated * (len(counts) > 1)
    predicted = passes * rounds * evaluated + _relabelled(config, counts)
    needed |= {
        "assignments": seeds * masks * ROW,
        "pseudo_labels.json": seeds * counts["train"] * config["masks"]["per_image"] * RUN_LENGTHS,
        "candidates (at most)": seeds * count * candidates,
        "confident (at most)": seeds * labelled * candidates,
        "candidates.json (at most)": evaluated * candidates,
        "label maps": seeds * (labelled + evaluated) * LABEL_MAP,
        "predictions": seeds * predicted * LABEL_MAP,
        "unpacked label maps": 2 * evaluated * LABEL_MAP,
        "models": trainings * MODEL,
        "checkpoints": trainings * CHECKPOINT * MODEL,
    }
    if _probed(config):
        probed = seeds * rounds * passes * evaluated
        needed["linear probe"] = (counts["train"] + probed) * LABEL_MAP
    return needed


def download_sizes(
    configs: Sequence[Mapping], catalogue: Mapping
) -> tuple[dict[str, float], list[str]]:
    """Bytes of the data and weights that the workflow downloads, and URLs of unknown size.

    Returns:
        Folder or file → bytes, for datasets of the archives and the unpacked files; and the URLs of
        files that are not counted, because their sizes are unknown.
    """
    sizes: dict[str, float] = {}
    unknown = []
    for name in sorted({one["dataset"]["download"] for one in configs if is_downloaded(one)}):
        archives = dataset_source(name, catalogue)["archives"]
        sizes[f"data/{name}"] = sum(one.get("bytes", 0) for one in archives) * (1 + UNPACKED)
        unknown += [one["url"] for one in archives if "bytes" not in one]
    stages = ("features", "embedding", "mask_rcnn", "segmentation")
    wanted = {one[stage]["weights"] for one in configs for stage in stages}
    for path in sorted(wanted & set(catalogue["files"])):
        source = catalogue["files"][path]
        if size := source.get("bytes") or source.get("expected_bytes"):
            sizes[path] = size
        else:
            unknown.append(source["url"])
    unknown += [
        f"{one[stage]['weights']} (timm's hub)"
        for one in configs
        for stage in ("features", "embedding")
        if is_from_timm(one[stage], catalogue["files"])
    ]
    return sizes, list(dict.fromkeys(unknown))


def patches(features: Mapping, patch_size: int) -> int:
    """Number of patches of a photograph of 4:3 at the size that the backbone sees."""
    size = image_sizes.resized_size(
        3000,
        round(3000 * ASPECT_RATIO),
        shorter_side=features["shorter_side"],
        longer_side=features["longer_side"],
    )
    return math.prod(side // patch_size for side in image_sizes.padded_size(size, patch_size))
