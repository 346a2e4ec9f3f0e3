"""Names of parameters that Hugging Face's transformers gives to published vision transformers.

They are turned into those of the original repositories (DINO, DINOv2, DINOv3), which timm reads.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# What precedes the names of the bare model, where the file is of a model with a head.
_MODEL = re.compile(r"^(?:vit|dinov2|dinov2_with_registers|dinov3_vit)\.")
# Parts that only pretraining or a classifier needs.
_HEADS = ("pooler.", "classifier.", "decoder.")
# Replacements in the names, in order: the first ones are parts of later ones.
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
        (r"\.mlp\.weights_in\.", ".mlp.w12."),  # SwiGLU of DINOv2: gate and input in one
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"\.mlp\.gate_proj\.", ".mlp.w1."),  # SwiGLU of DINOv3
    )
)
_QUERY_KEY_VALUE = re.compile(r"^(.+\.attn\.)(q|k|v)(?:uery|ey|alue|_proj)\.(weight|bias)$")


def is_of_transformers(names: Mapping[str, object]) -> bool:
    """Whether a state dict has the names that transformers gives to a vision transformer."""
    return any(_MODEL.sub("", name).startswith("embeddings.patch_embeddings.") for name in names)


def original_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of the original repositories; other files are not changed.

    Queries, keys and values become one matrix, in this order. Where only some of them have a bias
    (DINOv3's keys have none), the others' is zero.
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
    if "register_tokens" in renamed and "pos_embed" not in renamed:  # DINOv3 rotates instead
        renamed["storage_tokens"] = renamed.pop("register_tokens")
    return renamed


def _joined(prefix: str, parts: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    """Weight and, if there is any, bias of queries, keys and values as one."""
    joined = {}
    for kind in ("weight", "bias"):
        known = [parts.get((letter, kind)) for letter in "qkv"]
        one = next((part for part in known if part is not None), None)
        if one is not None:
            joined[f"{prefix}qkv.{kind}"] = torch.cat(
                [torch.zeros_like(one) if part is None else part for part in known]
            )
    return joined
