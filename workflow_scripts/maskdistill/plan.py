"""What a run will need, from the config alone: images, GPU hours, space on the disk."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.maskdistill import datasets, images
from workflow_scripts.maskdistill.config import evaluated_split, is_downloaded

# Assumed, where nothing in the config decides it. Bytes, unless said otherwise.
ASPECT_RATIO = 4 / 3  # of a photograph
RUN_LENGTHS = 400  # one mask
LABEL_MAP = 8_000  # a PNG of 500 x 375
MODEL = 150_000_000  # ResNet-50 with its heads
CHECKPOINT = 3  # of a training: times the model, with momentum and the one before it
UNPACKED = 1.05  # times the archive: JPEG does not shrink


class Backbone(NamedTuple):
    """What of a vision transformer decides the size of its features."""

    patch_size: int
    width: int
    heads: int


def count_images(config: Mapping, split: str, catalogue: Mapping) -> int:
    """The number of images of a split: listed where the data are here, else as published.

    Raises:
        InputError: the data are not here and cannot be downloaded.
    """
    dataset = config["dataset"]
    if dataset["generate"] is not None:
        return dataset["generate"][split]
    root, value = Path(dataset["root"]), dataset["splits"][split]
    if not is_downloaded(config) or (root / "downloaded.json").is_file():
        return len(datasets.list_images(dataset, root, split))
    published = catalogue["datasets"][dataset["download"]]["images"]
    if isinstance(value, str):
        return published[value]
    count = published[value["annotations"]]
    if value.get("image_list"):
        count = catalogue["files"][value["image_list"]]["images"]
    if value.get("excluded_list"):
        count -= catalogue["files"][value["excluded_list"]]["images"]
    return count


def split_counts(config: Mapping, catalogue: Mapping) -> dict[str, int]:
    """Images of the splits that the workflow goes through: `train` and, if it differs, `val`."""
    splits = dict.fromkeys(["train", evaluated_split(config)])
    return {split: count_images(config, split, catalogue) for split in splits}


def gpu_seconds(
    config: Mapping, counts: Mapping[str, int], throughput: Mapping
) -> dict[str, float]:
    """Seconds of one GPU that every rule takes for a dataset, over all its seeds.

    Args:
        counts: of `split_counts`.
        throughput: rule → {seconds, per}, see resources/throughput.json.
    """
    seeds, rounds = len(config["seeds"]), config["crf"]["rounds"] + 1
    everything, evaluated = sum(counts.values()), counts[evaluated_split(config)]
    mask_rcnn, segmentation = config["mask_rcnn"], config["segmentation"]
    # Refined predictions of the training images are made for the next round only.
    relabelled = (rounds - 1) * counts["train"] if "val" in counts else 0
    refined = evaluated * rounds + relabelled if config["crf"]["enabled"] else 0
    amounts = {
        "extract_features": everything,
        "embed_masks": everything * config["masks"]["per_image"],
        "train_mask_rcnn": seeds * mask_rcnn["iterations"] * mask_rcnn["batch_size"],
        "predict_candidates": seeds * everything,
        "train_segmentation": seeds * rounds * segmentation["epochs"] * counts["train"],
        "predict_segmentation": seeds * rounds * evaluated,
        "refine_predictions": seeds * refined,
    }
    return {rule: amount * throughput[rule]["seconds"] for rule, amount in amounts.items()}


def support_gpu_seconds(
    config: Mapping, counts: Mapping[str, int], throughput: Mapping
) -> dict[str, float]:
    """As `gpu_seconds`, of a dataset that only supports another's clustering."""
    amounts = {"extract_features": 1, "embed_masks": config["masks"]["per_image"]}
    return {
        rule: amount * counts["train"] * throughput[rule]["seconds"]
        for rule, amount in amounts.items()
    }


def disk_bytes(
    config: Mapping, counts: Mapping[str, int], backbone: Backbone, *, support: bool = False
) -> dict[str, float]:
    """Bytes on the disk that every stage takes for a dataset, over all its seeds, uncompressed.

    Args:
        counts: of `split_counts`.
        support: whether the dataset only supports another's clustering.
    """
    count = counts["train"] if support else sum(counts.values())
    per_image, seeds = config["masks"]["per_image"], len(config["seeds"])
    tokens = patches(config["features"], backbone.patch_size)
    needed = {
        # Keys are float16, affinities float32.
        "features": count * tokens * (2 * backbone.width + 4 * backbone.heads),
        "masks": count * per_image * RUN_LENGTHS,
        "mask_embeddings": count * per_image * 4 * backbone.width,
    }
    if support:
        return needed
    rounds = config["crf"]["rounds"] + 1
    evaluated = counts[evaluated_split(config)]
    steps = 1 + rounds * (2 if config["crf"]["enabled"] else 1)  # initial masks, predictions
    trainings = seeds * (1 + rounds)
    return needed | {
        "candidates (at most)": seeds
        * count
        * config["mask_rcnn"]["candidates_per_image"]
        * RUN_LENGTHS,
        "label maps": seeds * (count + steps * evaluated) * LABEL_MAP,
        "models": trainings * MODEL,
        "checkpoints": trainings * CHECKPOINT * MODEL,
    }


def patches(features: Mapping, patch_size: int) -> int:
    """Patches of a photograph of 4:3 at the size that the backbone sees."""
    size = images.resized_size(
        3000,
        round(3000 * ASPECT_RATIO),
        shorter_side=features["shorter_side"],
        longer_side=features["longer_side"],
    )
    return math.prod(side // patch_size for side in images.padded_size(size, patch_size))


def download_bytes(source: Mapping) -> tuple[float, list[str]]:
    """Bytes that a dataset takes while it is unpacked, and the URLs whose size is not published."""
    known = [archive["bytes"] for archive in source["archives"] if "bytes" in archive]
    unknown = [archive["url"] for archive in source["archives"] if "bytes" not in archive]
    return sum(known) * (1 + UNPACKED), unknown


def in_units(size: float) -> str:
    """A number of bytes for people: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def table(header: tuple[str, ...], rows: list[tuple]) -> Iterator[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()
