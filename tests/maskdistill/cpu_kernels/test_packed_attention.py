import math
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F

from workflow_scripts.maskdistill.cpu_kernels import onednn, packed_attention, threads
from workflow_scripts.maskdistill.cpu_kernels.packed_attention import PackedAttention, attention


def spread(*shape, seed=0):
    """Numbers large enough for some weights to be near 1 and others near 0."""
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def counted():
    """What counts the calls of ours."""
    return mock.patch.object(packed_attention, "attention", wraps=attention)


def calls(query, key, value, **options):
    """How often attention of ours is called, and what comes out."""
    with counted() as ours, PackedAttention():
        found = F.scaled_dot_product_attention(query, key, value, **options)
    return ours.call_count, found


@pytest.mark.parametrize(
    ("shape", "keys"), [((1, 6, 1201, 64), 1201), ((2, 3, 7, 16), 1030), ((1, 1, 1500, 24), 1024)]
)
def test_attention_is_that_of_pytorch(shape, keys):
    query = spread(*shape)
    key, value = (spread(*shape[:2], keys, shape[3], seed=seed) for seed in (1, 2))
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    count, found = calls(query, key, value)
    assert count == 1
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("largest", [0.9, 1.1, 50])
def test_scores_of_any_size(largest):
    """On both sides of what needs no shift, and where exponents without one would overflow."""
    query, key, value = (spread(1, 1, 1100, 16, seed=seed) for seed in range(3))
    product = query.norm(dim=-1).max() * key.norm(dim=-1).max()
    query *= largest * packed_attention.SMALL / (product * math.log2(math.e) / 4)
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    _, found = calls(query, key, value)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-3)


def test_one_large_score_of_either_sign():
    query, value = torch.zeros(1, 1, 1100, 16), spread(1, 1, 1100, 16)
    key = torch.zeros(1, 1, 1100, 16)
    query[..., 0] = 1000.0
    key[0, 0, 7, 0], key[0, 0, 8, 0] = 1000.0, -1000.0
    _, found = calls(query, key, value)
    torch.testing.assert_close(found, value[:, :, 7:8].expand_as(value))


def test_threads_of_the_caller_stay_as_many():
    before = torch.get_num_threads()
    query = spread(1, 2, 1100, 16)
    assert calls(query, query, query)[0] == 1
    assert torch.get_num_threads() == before
    (inside,) = threads.single_threads(1).map(lambda _: torch.get_num_threads(), [0])
    assert inside == 1


def test_parts_of_one_tensor_are_taken_as_they_lie():
    query, key, value = spread(1, 1100, 3, 2, 32).permute(2, 0, 3, 1, 4)
    count, found = calls(query, key, value)
    assert count == 1
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        (1100, {"is_causal": True}),
        (1100, {"scale": 0.5}),
        (1100, {"attn_mask": torch.ones(1100, 1100, dtype=torch.bool).tril()}),
        (1000, {}),
    ],
)
def test_other_attention_is_pytorch_s_own(tokens, options):
    query, key, value = (spread(1, 2, tokens, 16, seed=seed) for seed in range(3))
    count, found = calls(query, key, value, **options)
    assert count == 0
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_other_precisions_are_pytorch_s_own():
    half = spread(1, 2, 1100, 16).bfloat16()
    assert calls(half, half, half)[0] == 0
    whole = spread(1, 2, 1100, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert calls(whole, whole, whole)[0] == 0


def test_gradients_are_pytorch_s_own():
    query = spread(1, 2, 1100, 16).requires_grad_()
    count, found = calls(query, query, query)
    assert count == 0
    assert found.requires_grad


def test_a_pytorch_without_the_operators_keeps_its_attention(monkeypatch):
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    query = spread(1, 2, 1100, 16)
    assert calls(query, query, query)[0] == 0


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_models_call_it(name):
    """Whatever module of timm computes the attention, with rotated keys or without."""
    torch.manual_seed(0)
    options = {"depth": 1, "embed_dim": 48, "num_heads": 3, "dynamic_img_size": True}
    model = timm.create_model(name, num_classes=0, **options).eval().requires_grad_(False)
    side = 33 * model.patch_embed.patch_size[0]
    images = torch.randn(1, 3, side, side)
    expected = model(images)
    with counted() as ours, PackedAttention():
        found = model(images)
    assert ours.call_count == 1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
