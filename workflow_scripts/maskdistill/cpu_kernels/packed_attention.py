"""Attention between many tokens on the CPU, with oneDNN; every thread computes other heads."""

import functools
import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workflow_scripts.maskdistill.cpu_kernels import onednn
from workflow_scripts.maskdistill.cpu_kernels.threads import single_threads

# With fewer tokens, converting factors for oneDNN takes longer than its faster products save.
MANY_TOKENS = 1024
# While no score exceeds this absolute value, the softmax need not subtract each row's maximum:
# 2**score, and sums of it, stay far from the limits of float32 (2**127, 2**-126).
SMALL = 100
# Number of scores that a thread computes at once, so that they stay in the processor's caches.
SCORES = 2**19


class PackedAttention(TorchFunctionMode):
    """A context in which `scaled_dot_product_attention` is computed by `attention` below.

    On other devices, in other precisions, with masks or for few tokens, PyTorch still computes it.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """See `TorchFunctionMode`."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and _is_plain(*args, **kwargs):
            return attention(*args[:3])
        return function(*args, **kwargs)


def pack_attention(model: nn.Module) -> None:
    """Let the attention modules of a timm model run in the context `PackedAttention`."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.forward = functools.partial(_within_packed_attention, module.forward)


def _within_packed_attention(forward: Callable[..., Tensor], *args, **kwargs) -> Tensor:
    with PackedAttention():
        return forward(*args, **kwargs)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q · kᵀ / √d) · v.

    Args:
        query: B x heads x N x d, float32 on the CPU.
        key: B x heads x M x d.
        value: B x heads x M x d.

    Returns:
        B x heads x N x d, contiguous as B x N x heads x d.
    """
    images, heads, tokens, size = query.shape
    result = value.new_empty(images, tokens, heads, value.shape[-1])
    rows = max(1, SCORES // key.shape[2])
    # exp(x) is computed as exp2(x · log2 e), because exp2 takes a fifth of the time of exp.
    scale = math.log2(math.e) / math.sqrt(size)

    @torch.inference_mode()
    def compute(place: tuple[int, int]) -> None:
        queries = query[place] * scale
        keys, values = onednn.pack(key[place]), onednn.pack(value[place].T)
        largest = queries.norm(dim=-1).max() * key[place].norm(dim=-1).max()
        image, head = place
        for start in range(0, tokens, rows):
            some = slice(start, start + rows)
            weights = onednn.product(queries[some], keys)
            if largest > SMALL:
                weights -= weights.amax(dim=-1, keepdim=True)
            weights.exp2_()
            sums = weights.sum(dim=-1, keepdim=True)
            torch.div(onednn.product(weights, values), sums, out=result[image, some, head])

    places = itertools.product(range(images), range(heads))
    count = torch.get_num_threads()
    list(map(compute, places) if count == 1 else single_threads(count).map(compute, places))
    return result.transpose(1, 2)


def _is_plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    return (
        attn_mask is None
        and not (dropout_p or is_causal or enable_gqa)
        and scale is None
        and query.dim() == 4
        and key.shape[2] >= MANY_TOKENS
        and not any(t.requires_grad for t in (query, key, value))
        and onednn.applies_to(query, key, value)
    )
