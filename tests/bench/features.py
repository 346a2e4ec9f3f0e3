"""Extraction: ViT-S/16 at the paper's 640 pixels, against the forward pass spelt out as a whole."""

import tempfile
from collections.abc import Iterator

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.bench import Row, median_seconds
from workflow_scripts.maskdistill.vit import Backbone

NAME = "vit_small_patch16_224"
SIDES = (640, 864)  # a photograph of about 4 : 3, shorter side 640
# What the model computes in one block, per token, beside attention: q, k, v, projection, MLP.
WIDTHS = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
HEADS, DEPTH = 6, 12


def rows() -> Iterator[Row]:
    """Seconds an image; weights are random, which costs the same."""
    image = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_file(timm.create_model(NAME, num_classes=0).state_dict(), file.name)
        backbone = Backbone(NAME, weights=file.name)
    plain = median_seconds(lambda: whole_forward(backbone, backbone.prepare([image])), repeats=3)
    for precision, bound in (("float32", 1.0), ("bfloat16", 1 / 2.5)):
        backbone.precision = getattr(torch, precision)
        ours = median_seconds(
            lambda: backbone.last_block_features(backbone.prepare([image])), repeats=3
        )
        yield Row(
            what=f"features, {NAME}, {SIDES[0]} x {SIDES[1]}, {precision}",
            value=ours,
            unit="s/image",
            reference=plain,
            against="whole forward pass in float32, attention and affinities spelt out",
            at_most=bound,
        )
    backbone.precision = torch.float32
    yield Row(
        what="features, float32",
        value=median_seconds(lambda: backbone.last_block_features(backbone.prepare([image])), 3),
        unit="s/image",
        reference=matrix_products(),
        against="its matrix products alone",
        at_most=1.3,
    )


@torch.inference_mode()
def whole_forward(backbone: Backbone, batch: Tensor) -> tuple[Tensor, Tensor]:
    """All of the last block too, softmax(q k) as a matrix, and the N x N affinities of Eq. 1-2."""
    model, kept = backbone.model, {}
    fused = [block.attn.fused_attn for block in model.blocks]
    hook = model.blocks[-1].attn.qkv.register_forward_hook(
        lambda module, inputs, output: kept.update(qkv=output)
    )
    try:
        for block in model.blocks:
            block.attn.fused_attn = False
        model(batch)
    finally:
        hook.remove()
        for block, value in zip(model.blocks, fused, strict=True):
            block.attn.fused_attn = value
    query, keys, _ = kept["qkv"].unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    return (query @ keys.mT).mean(dim=1), (keys @ keys.mT).mean(dim=1)


def matrix_products() -> float:
    """Seconds of the products that extraction cannot do without, each timed by itself."""
    tokens = 1 + SIDES[0] // 16 * (SIDES[1] // 16)
    seconds = 0.0
    for inner, outer in WIDTHS:
        left, right = torch.randn(tokens, inner), torch.randn(inner, outer)
        seconds += median_seconds(lambda a=left, b=right: a @ b)
    query = torch.randn(HEADS, tokens, 64)
    scores = torch.randn(HEADS, tokens, tokens)
    seconds += median_seconds(lambda: query @ query.mT) + median_seconds(lambda: scores @ query)
    return seconds * (DEPTH - 1)
