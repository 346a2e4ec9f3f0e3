"""Functions for the benchmarks of a GPU: input files, synchronised times, time per image."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.bench import median_seconds
from workflow_scripts.maskdistill.files import label_maps, masks, shards
from workflow_scripts.maskdistill.torch_tools import optimization
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun

SIZE = (375, 500)  # (height, width) of photographs, as in PASCAL VOC
PER_IMAGE = "image of 2,160 patches"
CLUSTERS = 20
WORKERS = os.cpu_count() or 1


def device_under_test() -> torch.device | None:
    """The GPU; without one, print a message and return None."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    print("this machine has no CUDA GPU; nothing is measured", flush=True)
    return None


def synchronized(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Median seconds until the device has finished all work of `call`."""
    wait = torch.get_device_module(device).synchronize

    def whole() -> None:
        call()
        wait()

    return median_seconds(whole, repeats)


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Yield a list; on a GPU, it gets the peak of PyTorch's memory in GiB after the block."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found.append(torch.cuda.max_memory_allocated(device) / 2**30)


def write_weights(name: str, folder: Path) -> Path:
    """Write random weights of a timm model; returns the file."""
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=0).state_dict(), path)
    return path


def write_photographs(folder: Path, count: int, size: tuple[int, int] = SIZE) -> Path:
    """Write JPEG files about as large as photographs, and outputs of stages for them.

    The outputs are `images.parquet`, `masks.parquet`, `label_maps.parquet` and
    `pseudo_labels.json`, with two rectangles as the objects of each image.
    """
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    height, width = size
    images, found, labelled = [], [], []
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": c, "name": f"cluster_{c:03d}"} for c in range(1, CLUSTERS + 1)]
    for number in range(count):
        name = f"{number}.jpg"
        blocks = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        pixels = np.asarray(Image.fromarray(blocks).resize((width, height)), np.float32)
        # Add noise, because smooth images are decoded faster than photographs.
        pixels = pixels + generator.normal(scale=12, size=pixels.shape)
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        picture.save(folder / name, quality=92)
        row = {"image_id": number, "file_name": name, "height": height, "width": width}
        images.append({**row, "shard": 0, "status": "ok"})
        content["images"].append(
            {"id": number, "file_name": name, "height": height, "width": width}
        )
        labels = np.zeros(size, np.uint8)
        for thing in range(2):
            top, left = generator.integers(0, height // 2), generator.integers(0, width // 2)
            mask = np.zeros(size, bool)
            mask[top : top + height // 2, left : left + width // 3] = True
            cluster = int(generator.integers(1, CLUSTERS + 1))
            labels[mask] = cluster
            encoded = masks.encode(mask)
            place = {"image_id": number, "mask_id": thing, "status": "ok"}
            found.append({**place, **encoded._asdict()})
            box = [encoded.x, encoded.y, encoded.box_width, encoded.box_height]
            rle = {"size": [height, width], "counts": encoded.rle_counts.decode()}
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": cluster,
                    "segmentation": rle,
                    "bbox": box,
                    "area": encoded.area,
                    "iscrowd": 0,
                }
            )
        labelled.append(label_maps.row(number, name, labels))
    shards.write_table(folder / "images.parquet", "images", images, {})
    shards.write_table(folder / "masks.parquet", "masks", found, {})
    shards.write_table(folder / "label_maps.parquet", "label_maps", labelled, {})
    (folder / "pseudo_labels.json").write_text(json.dumps(content))
    return folder


def first_rows(folder: Path, table: str, count: int) -> Path:
    """Write the first rows of a Parquet file as another file, which is returned."""
    path = folder / f"{table}-{count}.parquet"
    rows = list(shards.read_rows(folder / f"{table}.parquet"))[:count]
    shards.write_table(path, table, rows, {})
    return path


def seconds_per_item(
    program: Callable[[list[str]], int], options: Callable[[int], Sequence[object]], count: int
) -> float:
    """Seconds per image that a program takes, without the time of its start.

    This is the time for `count` images minus the time for a quarter of them, divided by the
    difference in images. A first run, to warm up, is not counted.

    Args:
        options: function from a number of images to the command line.
    """

    def seconds(images: int) -> float:
        arguments = list(map(str, options(images)))
        with contextlib.redirect_stderr(io.StringIO()):
            start = time.perf_counter()
            assert program(arguments) == 0
        return time.perf_counter() - start

    few = max(1, count // 4)
    seconds(few)
    return (seconds(count) - seconds(few)) / (count - few)


def seconds_per_step(
    train: Callable[[], object], device: torch.device, *, warm_up: int
) -> tuple[float, float]:
    """Seconds per step of a training, and the seconds per step in which it waits for data.

    Args:
        train: runs a training that uses `optimization.train`.
        warm_up: number of steps that are not counted.
    """
    wait = torch.get_device_module(device).synchronize
    asked, given = [], []
    training_batches = optimization.training_batches

    @contextlib.contextmanager
    def timed_batches(*arguments: object, **options: object) -> Iterator[Iterator]:
        with training_batches(*arguments, **options) as batches:
            yield timed(batches)

    def timed(batches: Iterator) -> Iterator:
        iterator = iter(batches)
        while True:
            wait()  # the device has no work left: all time until the next batch is waiting
            asked.append(time.perf_counter())
            batch = next(iterator, None)
            if batch is None:
                return
            given.append(time.perf_counter())
            yield batch

    with (
        mock.patch.object(optimization, "training_batches", timed_batches),
        # Checkpoints are not written: each epoch ends with one, and epochs are much shorter here.
        mock.patch.object(TrainingRun, "save"),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        train()
    steps = len(given) - warm_up
    waited = sum(
        after - before for before, after in zip(asked[warm_up:], given[warm_up:], strict=False)
    )
    return (asked[-1] - asked[warm_up]) / steps, waited / steps
