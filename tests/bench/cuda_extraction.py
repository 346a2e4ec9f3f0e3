"""ViT-S/16 and ViT-B/16 on a GPU: features, masks and embeddings of images in its memory."""

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.bench import Row, _gpu
from tests.bench._gpu import synchronized
from workflow_scripts.maskdistill.discovery import affinity, vit
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings
from workflow_scripts.maskdistill.torch_tools.device import start_copy_to_host

SIDES = (640, 864)  # (height, width): a photograph of about 4 : 3, shorter side 640
NAMES = ("vit_small_patch16_224", "vit_base_patch16_224")
BATCH = 32
PRECISIONS = ("float32", "float16", "bfloat16")


def rows() -> Iterator[Row]:
    """All measurements, at the paper's image size; none without a GPU."""
    device = _gpu.device_under_test()
    if device is None:
        return
    for name in NAMES:
        yield from network(name, device, SIDES, BATCH)


def network(
    name: str, device: torch.device, sides: tuple[int, int], batch_size: int
) -> Iterator[Row]:
    """Measure one network in all precisions."""
    with tempfile.TemporaryDirectory() as directory:
        weights = _gpu.write_weights(name, Path(directory))
        backbone = Backbone(name, weights=weights).to(device)
        # Without the layers for CPUs, which cannot be compiled.
        with mock.patch.object(vit, "accelerate"):
            compiled = Backbone(name, weights=weights).to(device)
    for block in compiled.model.blocks:
        block.compile()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, *sides, 3), dtype=np.uint8)
    batch = backbone.prepare(list(images))
    for precision in PRECISIONS:
        backbone.precision = compiled.precision = precision
        what = f"features, {name}, {sides[0]} x {sides[1]}, {precision}, {batch_size} at once"
        yield from extraction(what, backbone, compiled, batch)
    backbone.precision = "float32"
    yield from masks_on_the_gpu(backbone, batch)
    visible = torch.ones(batch_size, *sides, dtype=torch.bool)
    seconds = synchronized(
        lambda: backbone.embed(backbone.remove_background(batch, visible)), device
    )
    yield Row(
        what=f"embedding, {name}, {sides[0]} x {sides[1]}, float32, {batch_size} at once "
        f"({batch_size / seconds:.0f} masks per second)",
        value=seconds / batch_size,
        unit="s/mask",
    )


def extraction(what: str, backbone: Backbone, compiled: Backbone, batch: Tensor) -> Iterator[Row]:
    """The network alone, compared with its matrix products; also compiled and as a CUDA graph."""
    device, batch_size = backbone.device, len(batch)
    eager = functools.partial(backbone.last_block_features, batch)
    with _gpu.peak_memory(device) as peak:
        seconds = synchronized(eager, device) / batch_size
    products = synchronized(matrix_products(backbone, batch), device) / batch_size
    yield Row(
        what=f"{what} ({1 / seconds:.0f} images per second)",
        value=seconds,
        unit="s/image",
        reference=products,
        against="its matrix products alone, at the GPU's rate",
        at_most=1 / 0.4,
    )
    for gibibytes in peak:
        yield Row(what=f"{what}: peak memory", value=gibibytes, unit="GiB")
    variants: dict[str, Callable] = {
        "compiled": lambda: functools.partial(compiled.last_block_features, batch)
    }
    if device.type == "cuda":
        variants["as a CUDA graph"] = lambda: cuda_graph(eager)
    for name, make in variants.items():
        try:
            value = synchronized(make(), device) / batch_size
        except Exception as error:  # Triton and its compiler raise exceptions of many types
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{what}, {name}: not measured ({reason})", file=sys.stderr, flush=True)
            continue
        yield Row(
            what=f"{what}, {name}",
            value=value,
            unit="s/image",
            reference=seconds,
            against="as the workflow runs it",
        )


def matrix_products(backbone: Backbone, batch: Tensor) -> Callable[[], object]:
    """A function that computes all matrix products of the extraction, one after the other."""
    images, _, *sides = batch.shape
    tokens = 1 + sides[0] // backbone.patch_size * (sides[1] // backbone.patch_size)
    options = {"dtype": getattr(torch, backbone.precision), "device": batch.device}
    width, heads = backbone.model.embed_dim, backbone.model.blocks[0].attn.num_heads
    layers = [
        (torch.randn(images * tokens, inner, **options), torch.randn(inner, outer, **options))
        for inner, outer in (
            (width, 3 * width),
            (width, width),
            (width, 4 * width),
            (4 * width, width),
        )
    ]
    query = torch.randn(images * heads, tokens, width // heads, **options)
    scores = torch.randn(images * heads, tokens, tokens, **options)

    def multiply() -> None:
        for _ in range(len(backbone.model.blocks) - 1):
            for left, right in layers:
                left @ right
            torch.bmm(query, query.mT, out=scores)
            torch.bmm(scores, query)

    return multiply


def cuda_graph(call: Callable[[], object]) -> Callable[[], object]:
    """Record the GPU work of `call`; returns a function that launches all of it at once."""
    side_stream = torch.cuda.Stream()
    with torch.cuda.stream(side_stream):
        call()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def masks_on_the_gpu(backbone: Backbone, batch: Tensor) -> Iterator[Row]:
    """Masks computed on the GPU, compared with masks on the CPU after copying the features."""
    grid = tuple(side // backbone.patch_size for side in batch.shape[2:])
    affinities, keys = backbone.last_block_features(batch)
    keys = keys.half()

    def masks(pairs: Iterator[tuple]) -> None:
        for cls_affinity, own in pairs:
            affinity.object_masks(own, cls_affinity, grid, MaskSettings(top_k=0.4))

    there = functools.partial(masks, list(zip(affinities, keys, strict=True)))
    copied = synchronized(start_copy_to_host((affinities, keys)), backbone.device)
    per_image = 1000 / len(batch)
    yield Row(what="copy of features to the CPU", value=copied * per_image, unit="ms/image")
    yield Row(
        what="masks on the GPU",
        value=synchronized(there, backbone.device) * per_image,
        unit="ms/image",
        reference=synchronized(
            lambda: masks(zip(*start_copy_to_host((affinities, keys))(), strict=True)),
            backbone.device,
        )
        * per_image,
        against="copy of features, masks on the CPU",
        at_most=1,
    )
