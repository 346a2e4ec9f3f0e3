"""Renames parameters of vision transformers in checkpoints of Hugging Face's transformers library.

The new names are those of the original repositories (DINO, DINOv2, DINOv3), which timm can read.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Prefix of the transformer's parameters in a file that has a model with a head.
_MODEL = re.compile(r"^(?:vit|dinov2|dinov2_with_registers|dinov3_vit)\.")
# Prefixes of parameters for pretraining or a classifier only, which are left out.
_HEADS = ("pooler.", "classifier.", "decoder.")
# Replacements in the names. The order matters: more specific patterns come first.
_NAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(?:encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\1."),
        (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^layernorm\.", "norm."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.", r".attn.\1."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),  # SwiGLU of DINOv2: gate and input in one matrix
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"\.mlp\.gate_proj\.", ".mlp.w1."),  # SwiGLU of DINOv3
    )
)
_QUERY_KEY_VALUE = re.compile(r"^(.+\.attn\.)(q|k|v)(?:uery|ey|alue|_proj)\.(weight|bias)$")


def is_of_transformers(names: Mapping[str, object]) -> bool:
    """Whether these are the library's names of a vision transformer's parameters."""
    return any(_MODEL.sub("", name).startswith("embeddings.patch_embeddings.") for name in names)


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to the original repositories' names, if they have the library's names.

    The matrices of queries, keys and values are joined into one, in this order, as are their
    biases. If only some of the three have a bias (DINOv3's keys have none), zeros are put in place
    of the others.
    """
    if not is_of_transformers(tensors):
        return dict(tensors)
    bare = {_MODEL.sub("", name): value for name, value in tensors.items()}
    has_gate = any(".mlp.gate_proj." in name for name in bare)
    up, down = ("w2", "w3") if has_gate else ("fc1", "fc2")
    renamed: dict[str, Tensor] = {}
    attention: dict[str, dict[tuple[str, str], Tensor]] = {}
    for name, value in bare.items():
        if name.startswith(_HEADS):
            continue
        for pattern, replacement in _NAMES:
            name = pattern.sub(replacement, name)
        name = name.replace(".mlp.up_proj.", f".mlp.{up}.").replace(
            ".mlp.down_proj.", f".mlp.{down}."
        )
        if match := _QUERY_KEY_VALUE.match(name):
            attention.setdefault(match[1], {})[match[2], match[3]] = value
        else:
            renamed[name] = value
    for prefix, parts in attention.items():
        renamed |= _joined(prefix, parts)
    if "register_tokens" in renamed and "pos_embed" not in renamed:  # as in DINOv3
        renamed["storage_tokens"] = renamed.pop("register_tokens")
    return renamed


def _joined(prefix: str, parts: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    """Join the weights, and the biases if there are any, of queries, keys and values."""
    joined = {}
    for kind in ("weight", "bias"):
        known = [parts.get((letter, kind)) for letter in "qkv"]
        one = next((part for part in known if part is not None), None)
        if one is not None:
            joined[f"{prefix}qkv.{kind}"] = torch.cat(
                [torch.zeros_like(one) if part is None else part for part in known]
            )
    return joined
