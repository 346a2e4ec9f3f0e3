"""Load published checkpoints into timm networks, and find the network that a file fits.

Parameters are recognised by their names, as used by timm, Meta (DINO, DINOv2, DINOv3, MAE, MoCo),
iBOT, CLIP and Hugging Face's transformers. Weights are never changed to fit a network: another
patch size or a missing register token is an error. Only the network's grid of position embeddings
is resized to the grid in the file.
"""

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.transformer_names import original_names
from workflow_scripts.maskdistill.torch_tools.weights import load_strictly, read_state_dict

# Prefixes of parameters that are ignored: parts for pretraining or classification, which the
# backbone does not have.
_HEADS = (
    "head.",
    "fc.",
    "fc_norm.",
    "mask_token",
    "masked_embed",
    "decoder",
    "predictor.",
    "projector.",
)
_REGISTERS = ("register_tokens", "storage_tokens", "reg_token")
_MODULES = ("vision_transformer", "eva")
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}


class Architecture(NamedTuple):
    """The properties of a vision transformer that can be seen in its weights."""

    patch_size: int
    width: int
    depth: int
    registers: int
    SwiGLU: bool  # whether the blocks have it in place of an MLP
    layer_scale: bool
    rotary_positions: bool  # whether there are no position embeddings among the weights
    query_biases: bool  # whether queries and values have biases that are not all zero


def _differences(held: Architecture, wanted: Architecture) -> str:
    """The differences between the architectures of weights and of a backbone, as text."""
    return ", ".join(
        f"{field.replace('_', ' ')} {_shown(own)} instead of {_shown(other)}"
        for field, own, other in zip(Architecture._fields, held, wanted, strict=True)
        if own != other
    )


def _shown(value: int | bool) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def architecture(tensors: Mapping[str, Tensor]) -> Architecture | None:
    """The architecture that weights belong to; None if they are not of a vision transformer.

    Args:
        tensors: weights, with the names of timm or of the original repositories.
    """
    patches = [value for value in tensors.values() if value.ndim == 4 and value.shape[1] == 3]
    blocks = {
        int(found[1])
        for found in map(re.compile(r"(?:^|.*\.)(?:res)?blocks\.(\d+)\.").match, tensors)
        if found
    }
    if not patches or not blocks or not any("attn" in name for name in tensors):
        return None
    registers = next((tensors[name].shape[1] for name in _REGISTERS if name in tensors), 0)
    names = " ".join(tensors)
    return Architecture(
        patch_size=patches[0].shape[-1],
        width=patches[0].shape[0],
        depth=max(blocks) + 1,
        registers=registers,
        SwiGLU=_is_gated(tensors),
        layer_scale=bool(re.search(r"\bls1\.gamma|\bgamma_1\b", names)),
        rotary_positions=not re.search(r"pos_embed|positional_embedding", names),
        query_biases=any(
            re.search(r"attn\.(qkv\.bias|q_bias|q_proj\.bias|in_proj_bias)$", name)
            and (value.is_meta or bool(value.any()) or "storage_tokens" not in tensors)
            for name, value in tensors.items()
        ),
    )


def _is_gated(tensors: Mapping[str, Tensor]) -> bool:
    if any(re.search(r"\.mlp\.(w12|w1|fc1_g)\.weight$", name) for name in tensors):
        return True
    first, second = (
        next((v for n, v in tensors.items() if n.endswith(f"mlp.{layer}.weight")), None)
        for layer in ("fc1", "fc2")
    )
    return first is not None and second is not None and first.shape[0] != second.shape[1]


def load_published(
    model: nn.Module, path: str | os.PathLike, *, name: str, setting: str = "features"
) -> None:
    """Load a published checkpoint into a network of timm without its classifier.

    Args:
        name: name of the network in the config.
        setting: section of the config that names the network, for error messages.

    Raises:
        InputError: the file is missing, damaged or of another network. The message says how that
            network differs, and which backbone of timm the file fits.
    """
    tensors = original_names(read_state_dict(path))
    held, wanted = architecture(tensors), architecture(model.state_dict())
    if held is not None and wanted is not None and held != wanted:
        raise InputError(
            f"{path}: these weights are of another network than {setting}.backbone {name!r}: they "
            f"have {_differences(held, wanted)}; {_advice(tensors, setting)}"
        )
    if held is not None and wanted is not None:
        _take_over_grid(model, tensors, path)
    try:
        load_strictly(model, timm_names(tensors, model), source=path, ignore=_HEADS)
    except InputError as error:
        if held is None:
            raise
        raise InputError(f"{error}; {_advice(tensors, setting)}") from None


def timm_names(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the weights of an original repository to timm's names, mostly by timm's own code."""
    tensors = dict(tensors)
    own = model.state_dict()
    if "storage_tokens" in tensors and not any(name.endswith("q_bias") for name in own):
        for key in [key for key in tensors if key.endswith("attn.qkv.bias")]:
            if tensors[key].is_meta or not tensors[key].any():  # zeros in most DINOv3 models
                del tensors[key]
    if "register_tokens" in tensors or any(".mlp.w12." in key for key in tensors):
        # timm recognises DINOv2 by this parameter, which some files do not have.
        tensors.setdefault("mask_token", torch.zeros(1))
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return convert(tensors, model) if convert else tensors


def _take_over_grid(model: nn.Module, tensors: Mapping[str, Tensor], path: object) -> None:
    """Resize the model's grid of position embeddings to the size that it has in the file."""
    side = _grid_side(tensors)
    if getattr(model, "pos_embed", None) is None or side is None:
        return
    if model.patch_embed.grid_size != (side, side):
        pixels = side * model.patch_embed.patch_size[0]
        print(f"{path}: input size set to {pixels} x {pixels} px, as in this file")
        model.set_input_size(img_size=(pixels, pixels))


def _grid_side(tensors: Mapping[str, Tensor]) -> int | None:
    """Side of the square grid of position embeddings, in patches."""
    positions = tensors.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return None
    for prefix in (1, 0, 2):  # other tokens: [CLS], none, or [CLS] and a distillation token
        side = math.isqrt(positions.shape[1] - prefix)
        if side * side == positions.shape[1] - prefix:
            return side
    return None


def _advice(tensors: Mapping[str, Tensor], setting: str) -> str:
    """The remedy for an error message: what to set in the config."""
    found = fitting_backbone(tensors)
    if found is None:
        return (
            f"no network of timm fits them; describe the network in {setting}.backbone_options, or "
            f"name another file in {setting}.weights"
        )
    return f"set {setting}.backbone: {found}, or name another file in {setting}.weights"


def fitting_backbone(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a vision transformer of timm that these weights fit exactly, or None.

    The name includes the tag of the training if timm knows only one training of the transformer.
    The number of attention heads cannot be checked, because weights do not show it.

    Args:
        tensors: weights, with the names of timm or of the original repositories.
    """
    held = architecture(tensors)
    if held is None:
        return None
    on_meta = {name: torch.empty_like(value, device="meta") for name, value in tensors.items()}
    if not held.query_biases:  # meta tensors have no values that could show that biases are 0
        on_meta = {n: v for n, v in on_meta.items() if not n.endswith("attn.qkv.bias")}
    side = _grid_side(tensors)
    fitting = []
    for name, model in _candidates(held):
        if architecture(model.state_dict()) != held:
            continue
        if side is not None and model.pos_embed is not None:
            own_grid = model.patch_embed.grid_size == (side, side)
            if not own_grid:
                pixels = side * held.patch_size
                model.set_input_size(img_size=(pixels, pixels))
        else:
            own_grid = True
        try:
            load_strictly(model, timm_names(on_meta, model), source=name, ignore=_HEADS)
        except (InputError, RuntimeError, NotImplementedError):
            continue
        fitting.append((not own_grid, len(name), name))
    if not fitting:
        return None
    name = min(fitting)[2]
    tags = timm.list_models(f"{name}.*", pretrained=True)
    return tags[0] if len(tags) == 1 else name


def _candidates(held: Architecture) -> Iterator[tuple[str, nn.Module]]:
    """Names and models of timm with nearly this architecture, on the device meta (no values)."""
    size = _SIZES.get(held.width, "")
    for name in timm.list_models(f"*{size}*patch{held.patch_size}_*", module=_MODULES):
        if ("dinov3" in name) != held.rotary_positions or ("7b" in name) != (held.width == 4096):
            continue
        options = {} if held.rotary_positions else {"weight_init": "skip"}
        try:
            with torch.device("meta"):
                yield name, timm.create_model(name, num_classes=0, **options)
        except (TypeError, RuntimeError):  # a model that these arguments cannot build
            continue
