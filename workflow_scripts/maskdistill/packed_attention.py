"""Attention of many tokens on the CPU, by oneDNN."""

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workflow_scripts.maskdistill import onednn

# With fewer tokens, packing takes longer than the faster products save.
MANY_TOKENS = 1024
# Scores that are computed at once; they stay in the processors' caches.
SCORES = 2**19


class PackedAttention(TorchFunctionMode):
    """In this context `scaled_dot_product_attention` is ours, wherever a model calls it.

    Other devices, precisions, masks and few tokens are left to PyTorch.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and _is_plain(*args, **kwargs):
            return attention(*args[:3])
        return function(*args, **kwargs)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q · kᵀ / √d) · v, head by head and some rows at a time.

    Args:
        query: B x heads x N x d, float32 on the CPU.
        key: B x heads x M x d.
        value: B x heads x M x d.

    Returns:
        B x heads x N x d, contiguous as B x N x heads x d.
    """
    images, heads, tokens, _ = query.shape
    result = value.new_empty(images, tokens, heads, value.shape[-1])
    query = query * query.shape[-1] ** -0.5
    rows = max(1, SCORES // key.shape[2])
    for image in range(images):
        for head in range(heads):
            keys = onednn.pack(key[image, head])
            values = onednn.pack(value[image, head].T)
            for start in range(0, tokens, rows):
                some = slice(start, start + rows)
                weights = onednn.product(query[image, head, some], keys).softmax(dim=-1)
                result[image, some, head] = onednn.product(weights, values)
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
