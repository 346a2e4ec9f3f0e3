"""Training steps of Mask R-CNN, DeepLab-v3 and the linear probe on a GPU."""

import copy
import functools
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from tests.bench import Row, _gpu
from tests.bench.features import DEFAULTS
from workflow_scripts import train_mask_rcnn, train_segmentation
from workflow_scripts.maskdistill.segmentation import linear_probe
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.segmentation.hard_pixels import hard_pixel_loss
from workflow_scripts.maskdistill.segmentation.upsampling import upsample
from workflow_scripts.maskdistill.settings.sections.linear_probe import LinearProbeSettings
from workflow_scripts.maskdistill.torch_tools.device import autocast
from workflow_scripts.maskdistill.torch_tools.training_run import TrainingFiles

IMAGES, STEPS, WARM_UP = 128, 30, 6
PRECISIONS = ("float32", "bfloat16")


def rows() -> Iterator[Row]:
    """All measurements, at the paper's image sizes; none without a GPU."""
    device = _gpu.device_under_test()
    if device is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        folder = _gpu.write_photographs(Path(directory), IMAGES)
        yield from trainings(folder, device, DEFAULTS, steps=STEPS, warm_up=WARM_UP)
    yield deeplab(device, images=16, side=512)


def trainings(
    folder: Path, device: torch.device, defaults: Mapping, *, steps: int, warm_up: int
) -> Iterator[Row]:
    """The three trainings as the workflow runs them, from JPEG files."""
    for precision in PRECISIONS:
        for name, train in (("train_segmentation", segmentation), ("train_mask_rcnn", mask_rcnn)):
            batch_size = defaults[name.removeprefix("train_")]["batch_size"]
            yield from training(
                name,
                functools.partial(train, folder, device, defaults, precision, steps),
                device,
                precision=precision,
                batch_size=batch_size,
                warm_up=warm_up,
            )
    yield from training(
        "train_linear_probe",
        lambda: probe(folder, device, defaults, steps),
        device,
        precision="float32",
        batch_size=defaults["evaluation"]["linear_probe"]["batch_size"],
        warm_up=warm_up,
    )


def training(
    name: str,
    train: Callable[[], object],
    device: torch.device,
    *,
    precision: str,
    batch_size: int,
    warm_up: int,
) -> Iterator[Row]:
    """Seconds per image, time spent waiting for data, and peak memory of one training."""
    with _gpu.peak_memory(device) as peak:
        step, waited = _gpu.seconds_per_step(train, device, warm_up=warm_up)
    what = f"{name}, batches of {batch_size} JPEG files, {precision}"
    yield Row(
        what=f"{what} ({step:.3g} s per step)",
        value=step / batch_size,
        unit="s/image",
        rule=name if precision == "float32" else "",
        per="training image",
    )
    yield Row(
        what=f"{what}: waiting for data, {_gpu.WORKERS} workers",
        value=waited,
        unit="s/step",
        reference=step,
        against="the whole step",
        at_most=0.05,
    )
    for gibibytes in peak:
        yield Row(what=f"{what}: peak memory", value=gibibytes, unit="GiB")


def _options(folder: Path, device: torch.device, settings: Mapping, output: Path) -> list[str]:
    return [
        *("--settings", json.dumps(settings), "--root", str(folder), "--seed", "0"),
        *("--work-dir", str(output / "work"), "--model", str(output / "model.pt")),
        *("--history", str(output / "history.csv")),
        *("--device", str(device), "--workers", str(_gpu.WORKERS)),
    ]


def _epochs(folder: Path, batch_size: int, steps: int) -> int:
    images = len(json.loads((folder / "pseudo_labels.json").read_text())["images"])
    return math.ceil(steps / math.ceil(images / batch_size))


def segmentation(
    folder: Path, device: torch.device, defaults: Mapping, precision: str, steps: int
) -> Path:
    """Train DeepLab-v3 for about `steps` steps; returns the folder of its files."""
    own = defaults["segmentation"] | {"weights": None, "frozen_stages": 0, "precision": precision}
    own["epochs"] = _epochs(folder, own["batch_size"], steps)
    settings = {"segmentation": own, "clustering": {"clusters": _gpu.CLUSTERS}}
    output = folder / f"segmentation-{precision}"
    options = _options(folder, device, settings, output)
    train_segmentation.main(["--label-maps", str(folder / "label_maps.parquet"), *options])
    return output


def mask_rcnn(
    folder: Path, device: torch.device, defaults: Mapping, precision: str, steps: int
) -> None:
    """Train Mask R-CNN for `steps` steps."""
    own = defaults["mask_rcnn"] | {"weights": None, "frozen_stages": 0, "norm": "batch"}
    # With a higher learning rate, a network of random weights diverges and finds fewer proposals.
    own |= {"precision": precision, "iterations": steps, "learning_rate": 1e-3}
    options = _options(folder, device, {"mask_rcnn": own}, folder / f"mask_rcnn-{precision}")
    train_mask_rcnn.main(["--pseudo-labels", str(folder / "pseudo_labels.json"), *options])


def probe(folder: Path, device: torch.device, defaults: Mapping, steps: int) -> None:
    """Train the linear probe on the model that `segmentation` trained."""
    own = defaults["evaluation"]["linear_probe"]
    own = own | {"enabled": True, "epochs": _epochs(folder, own["batch_size"], steps)}
    output = folder / "linear_probe"
    linear_probe.train(
        [folder / "label_maps.parquet"],
        folder,
        classes=_gpu.CLUSTERS,
        segmentation_model=folder / "segmentation-float32" / "model.pt",
        settings=LinearProbeSettings.read(own),
        views={name: defaults["segmentation"][name] for name in linear_probe.VIEWS},
        precision="float32",
        seed=0,
        files=TrainingFiles(output / "work", output / "model.pt", output / "history.csv", {}),
        device=device,
        workers=_gpu.WORKERS,
    )


def deeplab(device: torch.device, images: int, side: int, depth: int = 50) -> Row:
    """A step in bfloat16 and channels-last memory format, compared with float32 and the default."""
    settings = {"depth": depth, "output_stride": 8, "atrous_rates": (12, 24, 36)}
    settings |= {"head_width": 256, "dropout": 0.5, "frozen_stages": 0}
    batch = torch.randn(images, 3, side, side, device=device)
    labels = torch.randint(0, 21, (images, side, side), device=device)

    def step(model: nn.Module, precision: str) -> None:
        with autocast(device, precision):
            logits = model(batch)
        loss = hard_pixel_loss(upsample(logits, (side, side)), labels, hardest_fraction=0.2)
        model.zero_grad(set_to_none=True)
        loss.backward()

    plain = build_deeplab(20, **settings).to(device)
    ours = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    return Row(
        what=f"DeepLab-v3 step, {images} x {side} x {side}, from memory",
        value=_gpu.synchronized(lambda: step(ours, "bfloat16"), device),
        unit="s",
        reference=_gpu.synchronized(lambda: step(plain, "float32"), device),
        against="in float32 and the default memory format",
        at_most=1,
    )
