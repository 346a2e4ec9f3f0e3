"""Self-supervised vision transformers of timm: last-block queries and keys, and [CLS]."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from workflow_scripts.maskdistill.cpu_kernels.packed_attention import PackedAttention
from workflow_scripts.maskdistill.cpu_kernels.packed_linear import pack_linear_layers
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.images import padded_size
from workflow_scripts.maskdistill.torch_tools.weights import (
    load_strictly,
    read_state_dict,
    weights_digest,
)

# Heads of published checkpoints, which the backbone does without.
_HEADS = ("head.", "fc.", "fc_norm.", "mask_token")


class Network(nn.Module):
    """A frozen timm model and the images that it takes.

    Args:
        model: the timm model.
        multiple: sides of its input are multiples of this many pixels.
        weights: file that its weights are from; None where they are from timm's hub.

    Attributes:
        weights_digest: see `weights.weights_digest`.
    """

    def __init__(
        self, model: nn.Module, multiple: int, *, weights: str | os.PathLike | None = None
    ) -> None:
        super().__init__()
        self.weights_digest = weights_digest(weights, model)
        self.model = model.eval().requires_grad_(False)
        self._multiple = multiple
        data = timm.data.resolve_data_config(model=model)
        for statistic in ("mean", "std"):
            values = torch.tensor(data[statistic]).view(1, 3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mean.device

    def prepare(self, images: Sequence[np.ndarray]) -> Tensor:
        """Normalise images of one size and pad them, on the right and bottom, to whole patches.

        Args:
            images: H x W x 3, uint8, all of one size.

        Returns:
            B x 3 x H' x W' float32 on the network's device; the padding is zero, which is the
            mean colour.
        """
        batch = torch.from_numpy(np.stack(images))
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # or the copy would wait for all that was launched before
        batch = batch.to(self.device, non_blocking=True)
        batch = (batch.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        height, width = batch.shape[2:]
        padded_height, padded_width = padded_size((height, width), self._multiple)
        return F.pad(batch, (0, padded_width - width, 0, padded_height - height))

    def remove_background(self, batch: Tensor, visible: Tensor) -> Tensor:
        """Set everything outside of the masks to zero, the mean colour.

        Args:
            batch: of `prepare`.
            visible: B x H x W bool, of the images' size before padding.
        """
        height, width = batch.shape[2:]
        padding = (0, width - visible.shape[2], 0, height - visible.shape[1])
        return batch * F.pad(visible.to(batch), padding)[:, None]

    @torch.inference_mode()
    def embed(self, batch: Tensor) -> Tensor:
        """What a classifier would see, B x embedding size, float32.

        Of a transformer that is [CLS] after the final normalisation, of a convolutional network the
        average of the last feature map.

        Raises:
            InputError: an architecture that takes images of one size only.
        """
        try:
            with PackedAttention():
                return self.model(batch)
        except AssertionError as error:  # timm's, of what it was not built for
            height, width = batch.shape[2:]
            raise InputError(
                f"embedding.backbone: {type(self.model).__name__} takes no images of {height} x "
                f"{width} px ({error}); set embedding.input: box_crop and embedding.crop_side to "
                "its side, or choose a vision transformer or a convolutional network"
            ) from error


def build_network(
    name: str,
    *,
    options: Mapping | None = None,
    weights: str | os.PathLike | None = None,
    setting: str = "features",
    **arguments,
) -> nn.Module:
    """Build a timm model without its classifier.

    Args:
        name: timm's name of the model.
        options: further arguments of `timm.create_model` (`patch_size`, `embed_dim`, …).
        weights: local checkpoint, DINO's .pth or timm's .safetensors; None takes timm's own from
            its hub.
        setting: section of the config that is to blame, for messages.
        arguments: further arguments of `timm.create_model` that are ours, not the user's.

    Raises:
        InputError: unknown name, weights that cannot be had or that do not fit.
    """
    model = _create(name, options or {}, setting, pretrained=weights is None, **arguments)
    if weights is not None:
        load_strictly(model, read_state_dict(weights), source=weights, ignore=_HEADS)
    return model


def is_vision_transformer(
    name: str, *, options: Mapping | None = None, setting: str = "features"
) -> bool:
    """Whether timm builds what `Backbone` takes under that name; arguments as `build_network`.

    No weights are read.
    """
    with torch.device("meta"):  # the class tells, not the numbers
        model = _create(name, options or {}, setting, pretrained=False)
    return isinstance(model, VisionTransformer | Eva)


def _create(name: str, options: Mapping, setting: str, **arguments) -> nn.Module:
    try:
        return timm.create_model(name, num_classes=0, **arguments, **options)
    except Exception as error:  # timm, its hub and the architectures raise all kinds
        reason = " ".join(str(error).split())
        raise InputError(
            f"{setting}.backbone {name!r} cannot be built: {reason}; choose a model of timm and, "
            f"without network, point {setting}.weights to a local checkpoint"
        ) from error


class Backbone(Network):
    """A frozen timm transformer, for images of any size.

    Args:
        name: timm's name of a `VisionTransformer` or an `Eva` (DINOv3) with a class token.
        options, weights, setting: see `build_network`.
        precision: of the products of `last_block_features`: float32, bfloat16 or float16.

    Raises:
        InputError: as `build_network`, or an unsuitable architecture.
    """

    def __init__(
        self,
        name: str,
        *,
        options: Mapping | None = None,
        weights: str | os.PathLike | None = None,
        setting: str = "features",
        precision: str = "float32",
    ) -> None:
        model = build_network(
            name,
            options=options,
            weights=weights,
            setting=setting,
            dynamic_img_size=True,
            global_pool="token",
        )
        if not isinstance(model, VisionTransformer | Eva) or model.cls_token is None:
            raise InputError(
                f"{setting}.backbone {name!r} is no vision transformer with a [CLS] token"
            )
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.precision = getattr(torch, precision)
        super().__init__(model, multiple=self.patch_size, weights=weights)
        pack_linear_layers(self.model)

    @torch.inference_mode()
    def last_block_features(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """What Eq. 1 and 2 need of the last attention block, and nothing else of it.

        Args:
            batch: of `prepare`.

        Returns:
            The affinity of [CLS] to the patches, q_CLS(h) · k_I(h), as B x heads x N float32, not
            yet averaged over the heads (Eq. 1); and the keys of the patches as B x N x (heads x
            head size) float32. N counts patches row by row.
        """
        half = self.precision != torch.float32
        autocast = torch.autocast(batch.device.type, dtype=self.precision, enabled=half)
        with autocast, PackedAttention():
            tokens, rope = self._tokens_before_last_block(batch)
            block = self.model.blocks[-1]
            tokens = block.norm1(tokens)
            query, keys = _query_and_keys(block.attn, tokens, rope, self.model.num_prefix_tokens)
        query, keys = query.float(), keys.float()
        affinity = torch.einsum("bhd,bhnd->bhn", query, keys)
        return affinity, keys.transpose(1, 2).flatten(2)

    def _tokens_before_last_block(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        model = self.model
        tokens, rope = model._pos_embed(model.patch_embed(batch)), None
        if isinstance(model, Eva):
            tokens, rope = tokens
        tokens = model.norm_pre(tokens)
        for index, block in enumerate(model.blocks[:-1]):
            if rope is None:
                tokens = block(tokens)
            else:
                tokens = block(tokens, rope=_rope_of_block(model, rope, index))
        if rope is not None:
            rope = _rope_of_block(model, rope, len(model.blocks) - 1)
        return tokens, rope


def _rope_of_block(model: Eva, rope: Tensor, index: int) -> Tensor:
    return rope[index] if getattr(model, "rope_mixed", False) else rope


def _query_and_keys(
    attention: nn.Module, tokens: Tensor, rope: Tensor | None, prefix: int
) -> tuple[Tensor, Tensor]:
    """q of [CLS] (B x heads x d) and k of the patches (B x heads x N x d).

    Keys are those that the attention itself compares: normalised and rotated where the
    architecture does so ([CLS] is never rotated).
    """
    if getattr(attention, "qkv", None) is not None:
        size = attention.qkv.weight.shape[0] // 3
        query_weight, key_weight, _ = attention.qkv.weight.split(size)
        query_bias = getattr(attention, "q_bias", None)
        key_bias = None  # Eva's keys have none
        if attention.qkv.bias is not None:
            query_bias, key_bias, _ = attention.qkv.bias.split(size)
    else:
        query_weight, query_bias = attention.q_proj.weight, attention.q_proj.bias
        key_weight, key_bias = attention.k_proj.weight, attention.k_proj.bias
    heads = attention.num_heads
    query = F.linear(tokens[:, 0], query_weight, query_bias).unflatten(-1, (heads, -1))
    keys = F.linear(tokens[:, prefix:], key_weight, key_bias).unflatten(-1, (heads, -1))
    query, keys = attention.q_norm(query), attention.k_norm(keys.transpose(1, 2))
    if rope is not None:
        keys = timm.layers.apply_rot_embed_cat(
            keys, rope, half=getattr(attention, "rotate_half", False)
        )
    return query, keys
