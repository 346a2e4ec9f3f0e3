"""The backbone, a vision transformer of timm: keys and [CLS] affinities of its last block."""

import functools
import os
from collections.abc import Mapping

import timm
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from workflow_scripts.maskdistill.cpu_kernels import accelerate
from workflow_scripts.maskdistill.cpu_kernels.threads import by_image
from workflow_scripts.maskdistill.discovery.timm_models import Network, build_network, create_model
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools.device import autocast


def is_vision_transformer(
    name: str, *, options: Mapping | None = None, setting: str = "features"
) -> bool:
    """Whether the model is a vision transformer, as `Backbone` needs; no weights are read.

    The arguments are those of `build_network`.
    """
    with torch.device("meta"):  # builds the model without weights, to see its class
        model = create_model(name, options or {}, setting)
    return isinstance(model, VisionTransformer | Eva)


class Backbone(Network):
    """A frozen timm transformer, for images of any size.

    Args:
        name: timm's name of a `VisionTransformer` or an `Eva` (DINOv3) with a class token.
        options, weights, setting: see `build_network`.
        precision: precision of the matrix products in `last_block_features`: float32, bfloat16 or
            float16; see `usable_precision`.

    Raises:
        InputError: `build_network` fails, or the model is no vision transformer with [CLS].
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
                f"{setting}.backbone {name!r} is not a vision transformer with a [CLS] token"
            )
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.precision = precision
        super().__init__(model, multiple=self.patch_size, weights=weights)
        accelerate(self.model)

    @torch.inference_mode()
    def last_block_features(
        self, batch: Tensor, *, with_tokens: bool = False
    ) -> tuple[Tensor, ...]:
        """The affinities and keys from the last attention block that Eq. 1 and 2 need.

        Args:
            batch: result of `prepare`.
            with_tokens: compute the rest of the last block, too.

        Returns:
            The affinities of [CLS] to the patches, q_CLS(h) · k_I(h), as B x heads x N float32,
            before Eq. 1 averages them over the heads; the keys of the patches as B x N x
            (heads x head size) float32; and, if asked for, the tokens of [CLS] and the patches
            after the final normalisation, as B x (1 + N) x d float32. The N patches are in
            row-major order.
        """
        return by_image(functools.partial(self._last_block, with_tokens=with_tokens), batch)

    def _last_block(self, batch: Tensor, *, with_tokens: bool) -> tuple[Tensor, ...]:
        prefix = self.model.num_prefix_tokens
        with autocast(batch.device, self.precision):
            tokens, rope = self._tokens_before_last_block(batch)
            block = self.model.blocks[-1]
            query, keys = _query_and_keys(block.attn, block.norm1(tokens), rope, prefix)
            if with_tokens:
                last = self.model.norm(block(tokens) if rope is None else block(tokens, rope=rope))
                last = torch.cat([last[:, :1], last[:, prefix:]], dim=1).float()
        query, keys = query.float(), keys.float()
        affinities = torch.einsum("bhd,bhnd->bhn", query, keys)
        found = affinities, keys.transpose(1, 2).flatten(2)
        return (*found, last) if with_tokens else found

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
    """The query of [CLS] (B x heads x d) and the keys of the patches (B x heads x N x d).

    Query and keys are normalised, and keys are rotated (rotary position embeddings), if the
    architecture's attention does so. It never rotates the query of [CLS].
    """
    if getattr(attention, "qkv", None) is not None:
        size = attention.qkv.weight.shape[0] // 3
        query_weight, key_weight, _ = attention.qkv.weight.split(size)
        query_bias = getattr(attention, "q_bias", None)
        key_bias = None  # Eva's keys have no bias
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
