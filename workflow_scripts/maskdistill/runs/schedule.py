"""Schedules of trainings and numbers of shards that fit a dataset and a machine.

The times are those of `forecast`, for a GPU. For a machine without a GPU they are multiplied by a
factor, which comes from the only stage whose times on a CPU and on a GPU are known: ViT-S/16 at 640
pixels takes 2.4 s per image on one CPU core, and 0.036 s on the GPU of resources/throughput.json.
"""

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from workflow_scripts.maskdistill.runs import forecast
from workflow_scripts.maskdistill.settings.layers import merge

CORE_SLOWDOWN = 2.4 / 0.036  # time on one CPU core / time on the GPU of resources/throughput.json
CRF_SECONDS = 2.2  # on one core per image of 375 x 500, see resources/throughput.json
CRF_SIDE = 500

# The paper's passes over its 10,582 images, and after which shares of them the learning rate falls.
PAPER_PASSES = 24_000 * 16 / 10_582
PAPER_EPOCHS = 45
_FALLS = (20 / 24, 22 / 24)
_LAST_EPOCHS = 40 / 45
# Shorter trainings learn nothing. These bounds hold even if the run then takes more than the
# wanted number of hours.
LEAST_ITERATIONS = 200
LEAST_EPOCHS = 4

_GPU_SHARD, _CPU_SHARD = 4000, 500  # images; config/README.md, "A dataset of your own"


class Machine(NamedTuple):
    """The properties of a machine that decide how long a run takes."""

    gpu: str | None  # name of the GPU; None if there is none
    gpu_bytes: int
    cores: int
    memory_bytes: int

    @property
    def slowdown(self) -> float:
        """How many times slower networks are here than on the GPU of resources/throughput.json."""
        return 1.0 if self.gpu else CORE_SLOWDOWN / self.cores


def this_machine() -> Machine:
    """GPU, cores and memory of this machine."""
    import torch

    gpu, gpu_bytes = None, 0
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu, gpu_bytes = properties.name, properties.total_memory
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(gpu, gpu_bytes, len(os.sched_getaffinity(0)), memory)


def shards(images: int, machine: Machine) -> int:
    """A number of shards with which jobs compute much longer than they take to start."""
    return max(1, round(images / (_GPU_SHARD if machine.gpu else _CPU_SHARD)))


def batch_size(machine: Machine) -> int:
    """Images per training step: the paper's 16 on a GPU with 20 GB or more, else fewer."""
    if machine.gpu and machine.gpu_bytes >= 20e9:
        return 16
    return 8 if machine.gpu and machine.gpu_bytes >= 10e9 else 4


def seconds_of(
    config: Mapping,
    counts: Mapping[str, int],
    throughput: Mapping,
    networks: forecast.Networks,
    machine: Machine,
    *,
    support: bool = False,
) -> dict[str, float]:
    """Seconds of every rule on a machine: as `forecast.gpu_seconds`, plus the CRF on CPU cores."""
    on_gpu = forecast.gpu_seconds(config, counts, throughput, networks, support=support)
    found = {rule: seconds * machine.slowdown for rule, seconds in on_gpu.items()}
    share = min(1.0, (config["crf"]["longer_side"] or CRF_SIDE) / CRF_SIDE) ** 2
    if not support:
        for rule, images in forecast.refined_images(config, counts).items():
            found[rule] += images * share * CRF_SECONDS / machine.cores
    return found


def trainings(
    config: Mapping,
    counts: Mapping[str, int],
    throughput: Mapping,
    networks: forecast.Networks,
    machine: Machine,
    hours: float,
) -> dict[str, dict]:
    """Settings of `mask_rcnn` and `segmentation` with which a run takes about `hours` hours.

    The two trainings share equally the time that the other stages leave. Neither training gets more
    passes over the images than in the paper, nor fewer than it needs to learn anything. Learning
    rates are the config's, scaled by the batch size, and fall at the same shares of the schedule as
    in the paper. The result has no settings for a training that the config leaves out or replaces.

    Args:
        config: merged config of the dataset.
        counts: split → number of images.
        throughput: rule → {seconds, per}, see resources/throughput.json.
        hours: time that all stages may take together.
    """
    batch, images = batch_size(machine), counts["train"]
    one = {
        "mask_rcnn": {"iterations": 1, "batch_size": 1},
        "segmentation": {"epochs": 1},
    }
    seconds = seconds_of(merge(config, one), counts, throughput, networks, machine)
    of_one = {
        section: seconds.pop(f"train_{section}") for section in one if f"train_{section}" in seconds
    }
    share = max(0.0, hours * 3600 - sum(seconds.values())) / max(1, len(of_one))
    found: dict[str, dict] = {}
    if "mask_rcnn" in of_one:
        iterations = min(share / of_one["mask_rcnn"] / batch, PAPER_PASSES * images / batch)
        iterations = max(LEAST_ITERATIONS, _rounded(iterations))
        found["mask_rcnn"] = {
            "iterations": iterations,
            "learning_rate_steps": [round(iterations * fall) for fall in _FALLS],
        }
    if "segmentation" in of_one:
        epochs = min(PAPER_EPOCHS, int(share / of_one["segmentation"]))
        epochs = max(LEAST_EPOCHS, epochs, math.ceil(LEAST_ITERATIONS * batch / images))
        found["segmentation"] = {
            "epochs": epochs,
            "learning_rate_milestones": [min(epochs - 1, round(epochs * _LAST_EPOCHS))],
        }
    for section, values in found.items():
        scale = batch / config[section]["batch_size"]
        values["batch_size"] = batch
        values["learning_rate"] = _plain(config[section]["learning_rate"] * scale)
    return found


def _rounded(number: float) -> int:
    """A number rounded down to two significant digits, which shows that it is an estimate."""
    if number < 1:
        return 1
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return int(number // unit * unit)


def _plain(number: float) -> float:
    return float(f"{number:.4g}")
