"""Features and embeddings of ViT-S/16 at the paper's 640 pixels: the network and the program."""

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.bench import Row, alternating_seconds
from workflow_scripts import extract_features, list_images, make_masks
from workflow_scripts.maskdistill.cpu_kernels import onednn
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.repository import REPOSITORY

NAME = "vit_small_patch16_224"
SIDES = (640, 864)  # (height, width): a photograph of about 4 : 3, shorter side 640
# (inputs, outputs) of the linear layers of a block: q, k and v; projection; both layers of the MLP.
WIDTHS = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
HEADS, DEPTH = 6, 12
DEFAULTS = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())["defaults"]
DEFAULTS["features"]["shorter_side"] = SIDES[0]  # programs need a number in place of auto


def rows() -> Iterator[Row]:
    """Seconds per image, with random weights, which take the same time as trained ones."""
    with tempfile.TemporaryDirectory() as directory:
        weights = Path(directory) / "weights.safetensors"
        save_file(timm.create_model(NAME, num_classes=0).state_dict(), weights)
        plain = timm.create_model(
            NAME, num_classes=0, dynamic_img_size=True, checkpoint_path=str(weights)
        )
        yield from forward(Backbone(NAME, weights=weights), plain.eval())
        yield from program(Path(directory), weights)


def forward(backbone: Backbone, model: VisionTransformer) -> Iterator[Row]:
    """The network alone, one image at a time, compared with timm's `model` of the same weights."""
    image = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)
    batch = backbone.prepare([image])
    for block in model.blocks:
        block.attn.fused_attn = False
    affinity, keys = backbone.last_block_features(batch)
    attention, similarity = whole_forward(model, batch)
    assert torch.allclose(affinity.mean(dim=1), attention[:, 0, 1:], atol=1e-3)
    assert torch.allclose(keys @ keys.mT / HEADS, similarity[:, 1:, 1:], atol=1e-3)
    visible = torch.ones(1, *SIDES, dtype=torch.bool)

    def features(precision: str) -> None:
        backbone.precision = precision
        backbone.last_block_features(batch)

    calls = (
        lambda: whole_forward(model, batch),
        lambda: features("float32"),
        lambda: features("bfloat16"),
        lambda: backbone.embed(backbone.remove_background(batch, visible)),
        matrix_products(),
    )
    plain, single, half, embedding, products = alternating_seconds(*calls)
    for precision, seconds in (("float32", single), ("bfloat16", half)):
        yield Row(
            what=f"features, {NAME}, {SIDES[0]} x {SIDES[1]}, {precision}",
            value=seconds,
            unit="s/image",
            reference=plain,
            against="whole forward pass in float32, with plain attention and affinities",
            at_most=1 / 2.5,
        )
    yield Row(
        what="the same, float32",
        value=single,
        unit="s/image",
        reference=products,
        against="its matrix products alone, one by one, by oneDNN",
        at_most=1.25,
    )
    yield Row(
        what="embedding of a masked image",
        value=embedding,
        unit="s/image",
        reference=plain,
        against="the same forward pass",
        at_most=1,
    )


def list_photographs(folder: Path, images: int) -> Path:
    """Write JPEG files of PASCAL VOC's size into `photos`, and a manifest; returns its path."""
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(images):
        blocks = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((500, 375)).save(folder / "photos" / f"{number}.jpg")
    dataset = {"adapter": "folder", "splits": {"train": "."}, "classes": []}
    limits = {key: DEFAULTS["images"][key] for key in ("max_pixels", "min_side")}
    listing = {"dataset": dataset, "shards": 1, "images": limits}
    options = ["--settings", json.dumps(listing), "--root", str(folder / "photos")]
    options += ["--split", "train", "--shard", "0", "--max-rejected", "0", "0"]
    with contextlib.redirect_stderr(io.StringIO()):
        list_images.main([*options, "--output", str(folder / "images.parquet")])
    return folder / "images.parquet"


def program(folder: Path, weights: Path, images: int = 32) -> Iterator[Row]:
    """The programs on image files: their time, compared with the network, and bytes on disk."""
    manifest, output = list_photographs(folder, images), folder / "features.parquet"
    features = DEFAULTS["features"] | {"backbone": NAME, "weights": str(weights)}
    inside, model = [], Backbone.last_block_features

    def timed(backbone: Backbone, batch: Tensor, **options) -> tuple[Tensor, ...]:
        start = time.perf_counter()
        try:
            return model(backbone, batch, **options)
        finally:
            inside.append(time.perf_counter() - start)

    with (
        mock.patch.object(Backbone, "last_block_features", timed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        options = ["--settings", json.dumps({"features": features})]
        options += ["--root", str(folder / "photos"), "--workers", "2", "--batch-size", "4"]
        start = time.perf_counter()
        extract_features.main([*options, "--images", str(manifest), "--output", str(output)])
        wall = time.perf_counter() - start
        options = ["--images", str(manifest), "--features", str(output)]
        options += ["--output", str(folder / "masks.parquet")]
        settings = json.dumps({"masks": DEFAULTS["masks"]})
        start = time.perf_counter()
        make_masks.main(["--settings", settings, *options])
        masks = time.perf_counter() - start
    yield Row(
        what=f"extract_features, {images} photographs, with file access",
        value=wall / images,
        unit="s/image",
        reference=sum(inside) / images,
        against="its time in the model",
        at_most=1 / 0.9,
    )
    yield Row(
        what="make_masks, with file access",
        value=masks / images,
        unit="s/image",
        reference=wall / images,
        against="extract_features",
        at_most=0.1,
    )
    patches = (640 // 16) * (864 // 16)
    yield Row(
        what="features on the disk",
        value=output.stat().st_size / images,
        unit="bytes/image",
        reference=2 * patches * WIDTHS[0][0],
        against="2 x N x d",
        at_most=1.05,
    )


@torch.inference_mode()
def whole_forward(model: VisionTransformer, batch: Tensor) -> tuple[Tensor, Tensor]:
    """The whole forward pass of timm's model; returns the affinities of Eq. 1 and of Eq. 2."""
    kept = {}
    hook = model.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: kept.update(qkv=output)
    )
    try:
        model(batch)
    finally:
        hook.remove()
    query, keys, _ = kept["qkv"].unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    return (query[:, :, :1] @ keys.mT).mean(dim=1), (keys @ keys.mT).mean(dim=1)


def matrix_products() -> Callable[[], object]:
    """A function that computes all matrix products of the extraction; weights are packed before."""
    tokens = 1 + SIDES[0] // 16 * (SIDES[1] // 16)
    size = WIDTHS[0][0] // HEADS
    attention = ((size, tokens), (tokens, size)) * HEADS
    block = [
        (torch.randn(tokens, inner), onednn.pack(torch.randn(outer, inner)))
        for inner, outer in (*WIDTHS, *attention)
    ]

    def multiply() -> None:
        for _ in range(DEPTH - 1):
            for factors in block:
                onednn.product(*factors)

    return multiply
