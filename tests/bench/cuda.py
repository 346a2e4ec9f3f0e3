"""Extraction and training on a card; no row where there is none."""

import contextlib
import copy
import functools
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.bench import Row, median_seconds
from tests.bench.features import DEFAULTS, DEPTH, HEADS, NAME, SIDES, WIDTHS, list_photographs
from workflow_scripts import extract_features
from workflow_scripts.maskdistill.discovery import affinity, vit
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab, upsample
from workflow_scripts.maskdistill.segmentation.hard_pixels import hard_pixel_loss
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings
from workflow_scripts.maskdistill.torch_tools.device import autocast, start_copy_to_host

BATCH = 32
PRECISIONS = ("float32", "float16", "bfloat16")


def rows() -> Iterator[Row]:
    """Everything at the paper's sizes."""
    if not torch.cuda.is_available():
        print("cuda: this machine has no CUDA GPU; nothing is measured", file=sys.stderr)
        return
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as directory:
        weights = Path(directory) / "weights.safetensors"
        save_file(timm.create_model(NAME, num_classes=0).state_dict(), weights)
        backbone = Backbone(NAME, weights=weights).to(device)
        with mock.patch.object(vit, "accelerate"):  # the kernels of the CPU are not compiled
            compiled = Backbone(NAME, weights=weights).to(device)
        for block in compiled.model.blocks:
            block.compile()
        yield from extraction(backbone, compiled, SIDES, BATCH)
        yield from masks_on_the_card(backbone, SIDES, BATCH)
        yield program(Path(directory), weights, device)
    yield deeplab(device, images=16, side=512)


def extraction(
    backbone: Backbone, compiled: Backbone, sides: tuple[int, int], batch_size: int
) -> Iterator[Row]:
    """The network alone, in every precision, compiled and as a CUDA graph."""
    device = backbone.device
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, *sides, 3), dtype=np.uint8)
    batch = backbone.prepare(list(images))
    for precision in PRECISIONS:
        backbone.precision = compiled.precision = getattr(torch, precision)
        eager = functools.partial(backbone.last_block_features, batch)
        seconds = synchronized(eager, device) / batch_size
        products = synchronized(matrix_products(backbone, batch), device) / batch_size
        what = f"features, {NAME}, {sides[0]} x {sides[1]}, {precision}, {batch_size} at once"
        yield Row(
            what=f"{what} ({1 / seconds:.0f} images a second)",
            value=seconds,
            unit="s/image",
            reference=products,
            against="its matrix products alone, at the card's rate",
            at_most=1 / 0.4,
        )
        variants = {"compiled": functools.partial(compiled.last_block_features, batch)}
        if device.type == "cuda":
            variants["as a CUDA graph"] = cuda_graph(eager)
        for name, variant in variants.items():
            yield Row(
                what=f"the same, {name}",
                value=synchronized(variant, device) / batch_size,
                unit="s/image",
                reference=seconds,
                against="as it is run",
            )


def matrix_products(backbone: Backbone, batch: Tensor) -> Callable[[], object]:
    """The products that extraction cannot do without, one after the other."""
    images, _, *sides = batch.shape
    tokens = 1 + sides[0] // backbone.patch_size * (sides[1] // backbone.patch_size)
    options = {"dtype": backbone.precision, "device": batch.device}
    layers = [
        (torch.randn(images * tokens, inner, **options), torch.randn(inner, outer, **options))
        for inner, outer in WIDTHS
    ]
    size = WIDTHS[0][0] // HEADS
    query = torch.randn(images * HEADS, tokens, size, **options)
    scores = torch.randn(images * HEADS, tokens, tokens, **options)

    def multiply() -> None:
        for _ in range(DEPTH - 1):
            for left, right in layers:
                left @ right
            torch.bmm(query, query.mT, out=scores)
            torch.bmm(scores, query)

    return multiply


def cuda_graph(call: Callable[[], object]) -> Callable[[], object]:
    """Launches all of the call's work at once."""
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):
        call()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def masks_on_the_card(backbone: Backbone, sides: tuple[int, int], batch_size: int) -> Iterator[Row]:
    """Masks where the features are, against features that are copied back first."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, *sides, 3), dtype=np.uint8)
    batch = backbone.prepare(list(images))
    grid = tuple(side // backbone.patch_size for side in batch.shape[2:])
    affinities, keys = backbone.last_block_features(batch)
    keys = keys.half()

    def masks(pairs: Iterator[tuple]) -> None:
        for cls_affinity, own in pairs:
            affinity.object_masks(own, cls_affinity, grid, MaskSettings(top_k=0.4))

    there = functools.partial(masks, list(zip(affinities, keys, strict=True)))
    copied = synchronized(start_copy_to_host((affinities, keys)), backbone.device)
    yield Row(what="features to the host", value=1000 * copied / batch_size, unit="ms/image")
    yield Row(
        what="masks on the card",
        value=1000 * synchronized(there, backbone.device) / batch_size,
        unit="ms/image",
        reference=1000
        * synchronized(
            lambda: masks(zip(*start_copy_to_host((affinities, keys))(), strict=True)),
            backbone.device,
        )
        / batch_size,
        against="features to the host, masks there",
        at_most=1,
    )


def program(folder: Path, weights: Path, device: torch.device, images: int = 256) -> Row:
    """extract_features on JPEG files: how much of its time the card is busy."""
    manifest = list_photographs(folder, images)
    changes = {"backbone": NAME, "weights": str(weights), "precision": "float16"}
    settings = {"features": DEFAULTS["features"] | changes}
    backbone = Backbone(NAME, weights=weights, precision="float16").to(device)
    batch = backbone.prepare([np.zeros((*SIDES, 3), np.uint8)] * BATCH)
    alone = synchronized(lambda: backbone.last_block_features(batch), device) / BATCH
    options = ["--settings", json.dumps(settings), "--root", str(folder / "photos")]
    options += ["--workers", str(os.cpu_count())]
    options += ["--images", str(manifest), "--output", str(folder / "card.parquet")]
    options += ["--batch-size", str(BATCH), "--device", str(device)]
    with contextlib.redirect_stderr(io.StringIO()):
        start = time.perf_counter()
        extract_features.main(options)
        seconds = (time.perf_counter() - start) / images
    return Row(
        what=f"extract_features, {images} photographs, files and all",
        value=seconds,
        unit="s/image",
        reference=alone,
        against="the network alone",
    )


def deeplab(device: torch.device, images: int, side: int, depth: int = 50) -> Row:
    """A step in channels-last order and bfloat16, as train_segmentation does it if asked to."""
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
        what=f"DeepLab-v3 step, {images} x {side} x {side}",
        value=synchronized(lambda: step(ours, "bfloat16"), device),
        unit="s",
        reference=synchronized(lambda: step(plain, "float32"), device),
        against="in float32 and PyTorch's own order",
        at_most=1,
    )


def synchronized(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds until the device has done all of it."""
    wait = torch.get_device_module(device).synchronize

    def whole() -> None:
        call()
        wait()

    return median_seconds(whole)
