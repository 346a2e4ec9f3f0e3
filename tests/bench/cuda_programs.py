"""The programs of inference on a GPU, from JPEG files to Parquet files."""

import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tests.bench import Row, _gpu
from tests.bench.features import DEFAULTS
from workflow_scripts import (
    embed_masks,
    extract_features,
    extract_masks,
    predict_candidates,
    predict_segmentation,
    refine_predictions,
)
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.segmentation.deeplab import ARCHITECTURE, build_deeplab
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools.training_run import publish

# Times of the first network are written to resources/throughput.json.
NAMES = ("vit_small_patch16_224", "vit_base_patch16_224")
PRECISIONS = ("float32", "float16", "bfloat16")
BATCH = 32
# Numbers of images for the transformer, for the trained models, and for the CRF.
COUNTS = (1024, 256, 96)


def rows() -> Iterator[Row]:
    """All measurements, at the paper's image sizes; none without a GPU."""
    device = _gpu.device_under_test()
    if device is None:
        return
    with tempfile.TemporaryDirectory() as directory:
        folder = _gpu.write_photographs(Path(directory), COUNTS[0])
        yield from transformer(folder, device, DEFAULTS, COUNTS[0], BATCH)
        yield from trained_models(folder, device, DEFAULTS, COUNTS[1:], batch_size=8)


def options(folder: Path, device: torch.device, batch_size: int, settings: Mapping) -> list:
    """The options that all programs have."""
    return [
        *("--settings", json.dumps(settings), "--root", folder, "--device", device),
        *("--workers", _gpu.WORKERS, "--batch-size", batch_size),
        *("--output", folder / "output.parquet"),
    ]


def transformer(
    folder: Path, device: torch.device, defaults: Mapping, count: int, batch_size: int
) -> Iterator[Row]:
    """Features, masks and embeddings from files: bound of 80 % of the network's own speed."""

    def images(settings: Mapping, images: int) -> list:
        manifest = _gpu.first_rows(folder, "images", images)
        return ["--images", manifest, *options(folder, device, batch_size, settings)]

    for name, precision in itertools.product(NAMES, PRECISIONS):
        weights = _gpu.write_weights(name, folder)
        chosen = {"backbone": name, "weights": str(weights), "precision": precision}
        settings = {"features": defaults["features"] | chosen, "masks": defaults["masks"]}
        alone = network_alone(name, weights, device, precision, defaults, batch_size)
        stated = (name, precision) == (NAMES[0], PRECISIONS[0])
        for program in (extract_features, extract_masks)[: 2 if stated else 1]:
            title = program.__name__.rpartition(".")[2]
            seconds = _gpu.seconds_per_item(
                program.main, functools.partial(images, settings), count
            )
            yield Row(
                what=f"{title}, {name}, {count} JPEG files, {precision} ({1 / seconds:.0f} images "
                f"per second with {_gpu.WORKERS} workers)",
                value=seconds,
                unit="s/image",
                reference=alone,
                against="the network alone, from memory",
                at_most=1 / 0.8,
                rule=title if stated else "",
                per=_gpu.PER_IMAGE,
            )
    weights = _gpu.write_weights(NAMES[0], folder)
    features = defaults["features"] | {"backbone": NAMES[0], "weights": str(weights)}
    settings = {"features": features, "embedding": defaults["embedding"]}
    masks = count // 2  # there are two masks per image

    def embedded(count: int) -> Sequence[object]:
        table = _gpu.first_rows(folder, "masks", count)
        own = options(folder, device, batch_size, settings)
        return ["--images", folder / "images.parquet", "--masks", table, *own]

    yield Row(
        what=f"embed_masks, {masks} masks in JPEG files, float32",
        value=_gpu.seconds_per_item(embed_masks.main, embedded, masks),
        unit="s/mask",
        rule="embed_masks",
        per=f"mask of an {_gpu.PER_IMAGE}",
    )


def network_alone(
    name: str,
    weights: Path,
    device: torch.device,
    precision: str,
    defaults: Mapping,
    batch_size: int,
) -> float:
    """Seconds per image of the network alone, for images that are already on the GPU."""
    backbone = Backbone(name, weights=weights, precision=precision).to(device)
    side = defaults["features"]["shorter_side"]
    width = round(side * _gpu.SIZE[1] / _gpu.SIZE[0])
    batch = backbone.prepare([np.zeros((side, width, 3), np.uint8)] * batch_size)
    call = functools.partial(backbone.last_block_features, batch)
    return _gpu.synchronized(call, device) / batch_size


def trained_models(
    folder: Path,
    device: torch.device,
    defaults: Mapping,
    counts: tuple[int, int],
    *,
    batch_size: int,
) -> Iterator[Row]:
    """Mask R-CNN, DeepLab-v3 and its CRF, with random weights."""
    count, refined = counts
    write_models(folder, defaults)

    def images(model: str, settings: Mapping, images: int) -> list:
        manifest = _gpu.first_rows(folder, "images", images)
        own = options(folder, device, batch_size, settings)
        return ["--images", manifest, "--model", folder / model, *own]

    def measured(program: Callable, model: str, settings: Mapping, count: int) -> float:
        return _gpu.seconds_per_item(program, functools.partial(images, model, settings), count)

    for precision in ("float32", "bfloat16"):
        settings = {"candidates": defaults["candidates"] | {"precision": precision}}
        settings["candidates"]["score_floor"] = 0.0  # random weights give low ones
        main = precision == "float32"
        yield Row(
            what=f"predict_candidates, {count} JPEG files, {precision}",
            value=measured(predict_candidates.main, "mask_rcnn.pt", settings, count),
            unit="s/image",
            rule="predict_candidates" if main else "",
            per="image",
        )
        settings = {"predictions": defaults["predictions"] | {"precision": precision}}
        seconds = measured(predict_segmentation.main, "deeplab.pt", settings, count)
        # The linear probe takes the same time: only the last layer of its network differs.
        for rule in ("predict_segmentation", "predict_linear_probe")[: 2 if main else 1]:
            yield Row(
                what=f"{rule}, {count} JPEG files, {precision}",
                value=seconds,
                unit="s/image",
                rule=rule if main else "",
                per="image",
            )
    settings = {"predictions": defaults["predictions"], "crf": defaults["crf"]}
    seconds = measured(refine_predictions.main, "deeplab.pt", settings, refined)
    for rule in ("refine_predictions", "refine_linear_probe"):
        yield Row(
            what=f"{rule}, {refined} JPEG files, float32, CRF on {_gpu.WORKERS} cores",
            value=seconds,
            unit="s/image",
            rule=rule,
            per="image",
        )


def write_models(folder: Path, defaults: Mapping) -> None:
    """Write model files of the default architectures with random weights."""
    torch.manual_seed(0)
    own = defaults["mask_rcnn"] | {"weights": None, "frozen_stages": 0, "norm": "batch"}
    settings = MaskRCNNSettings.read(own)
    network = build_mask_rcnn(settings, _gpu.CLUSTERS)
    content = {"engine": settings.engine, "settings": dict(settings), "clusters": _gpu.CLUSTERS}
    publish(content | {"state_dict": network.state_dict()}, folder / "mask_rcnn.pt")
    own = defaults["segmentation"] | {"weights": None, "frozen_stages": 0}
    settings = SegmentationSettings.read(own).plain()
    network = build_deeplab(_gpu.CLUSTERS, **{name: settings[name] for name in ARCHITECTURE})
    content = {"settings": settings, "clusters": _gpu.CLUSTERS}
    publish(content | {"state_dict": network.state_dict()}, folder / "deeplab.pt")
