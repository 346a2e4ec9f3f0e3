"""A small segmentation model for machines without a GPU: decoder on a frozen vision transformer.

Before a training, the transformer's tokens of every image are computed once. Only the decoder is
then trained on these tokens, which takes minutes on a CPU.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import timm
import torch
from timm.layers import LayerNorm2d
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from workflow_scripts.maskdistill.discovery.timm_models import create_model
from workflow_scripts.maskdistill.torch_tools.resnet import MEAN, STD

CELLS = 4  # number of logits along a side of a patch
DETAIL = 32  # channels computed from the image itself, for outlines


class Transformer(NamedTuple):
    """A frozen transformer of timm, and the normalisation of its input."""

    model: nn.Module
    patch_size: int
    mean: Tensor  # 1 x 3 x 1 x 1, for pixel values from 0 to 1
    std: Tensor  # likewise


class ViTHead(nn.Module):
    """A frozen transformer, and a decoder that computes logits from its tokens and the image.

    Args:
        transformer: must have a class token and accept images of any size.
        classes: outputs, background included.
        width: channels of the decoder.

    Attributes:
        output_stride: patch size in pixels; the input's sides are multiples of it.
        cells: number of logits along a side of a patch.
    """

    cells = CELLS

    def __init__(self, transformer: Transformer, classes: int, *, width: int) -> None:
        super().__init__()
        self.output_stride = transformer.patch_size
        self.transformer = transformer.model.eval().requires_grad_(False)
        # Factor and offset convert the input from ImageNet's normalisation to the transformer's.
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        self.register_buffer("factor", std / transformer.std)
        self.register_buffer("offset", (mean - transformer.mean) / transformer.std)
        self.project = nn.Conv2d(self.transformer.embed_dim, width, 1)
        self.context = nn.ModuleList(_Mixer(width) for _ in range(2))
        # Fewer channels after the upsampling to the size of the logits, where most of the decoder's
        # operations are.
        fine = max(1, width // 3)
        self.narrow = nn.Conv2d(width, fine, 1)
        self.detail = nn.Sequential(nn.Conv2d(3, DETAIL, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(
            *_separable(fine + DETAIL, fine),
            *_separable(fine, fine),
            nn.Conv2d(fine, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images.

        Args:
            images: B x 3 x H x W with ImageNet's normalisation; H and W are multiples of the patch
                size P.

        Returns:
            B x classes x (CELLS H / P) x (CELLS W / P).
        """
        return self.decode(self.tokens(images), self.reduced(images))

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """The transformer's final patch tokens, B x d x H / P x W / P."""
        transformer, images = self.transformer, images * self.factor + self.offset
        if type(transformer) is VisionTransformer:  # subclasses compute tokens differently
            found, size = _tokens_of_any_size(transformer, images)
        else:
            found = transformer.forward_features(images)
            size = [side // self.output_stride for side in images.shape[-2:]]
        found = found[:, transformer.num_prefix_tokens :]
        return found.transpose(1, 2).unflatten(2, size)

    def reduced(self, images: Tensor) -> Tensor:
        """Images resized to the size of the logits: B x 3 x (CELLS H / P) x (CELLS W / P)."""
        size = [CELLS * (side // self.output_stride) for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def decode(self, tokens: Tensor, reduced: Tensor) -> Tensor:
        """Logits from tokens, and from `reduced` images for outlines.

        Tokens and reduced images may be a crop of an image, because the decoder's convolutions see
        only a small neighbourhood of each position.
        """
        features = self.project(tokens)
        for mixer in self.context:
            features = mixer(features)
        size = [CELLS * side for side in tokens.shape[-2:]]
        features = F.interpolate(
            self.narrow(features), size=size, mode="bilinear", align_corners=False
        )
        return self.head(torch.cat([features, self.detail(reduced)], dim=1))

    def train(self, mode: bool = True) -> "ViTHead":
        """Set training mode of the decoder; the transformer stays in evaluation mode."""
        super().train(mode)
        self.transformer.eval()
        return self


def _tokens_of_any_size(model: VisionTransformer, images: Tensor) -> tuple[Tensor, Sequence[int]]:
    """All tokens after the last block, and the rows and columns of the patches.

    Unlike timm's own forward pass, this one has the same graph for all image sizes, so that it can
    be exported. The position embeddings are resized without antialiasing.
    """
    patches = model.patch_embed.proj(images)
    size = patches.shape[-2:]
    patches = model.patch_embed.norm(patches.flatten(2).transpose(1, 2))
    prefix = [token for token in (model.cls_token, model.reg_token) if token is not None]
    prefix = torch.cat(prefix, dim=1).expand(len(images), -1, -1)
    if model.pos_embed is not None:
        placed = 0 if model.no_embed_class else prefix.shape[1]
        own, grid = model.pos_embed[:, :placed], model.pos_embed[:, placed:]
        grid = grid.transpose(1, 2).unflatten(2, model.patch_embed.grid_size)
        grid = F.interpolate(grid, size=size, mode="bicubic", align_corners=False)
        patches = patches + grid.flatten(2).transpose(1, 2)
        prefix = prefix + own if placed else prefix
    tokens = model.norm_pre(model.pos_drop(torch.cat([prefix, patches], dim=1)))
    for block in model.blocks:
        tokens = block(tokens)
    return model.norm(tokens), size


def _separable(channels: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, width, 1),
        nn.ReLU(),
    ]


class _Mixer(nn.Module):
    """A residual block that mixes the features of neighbouring positions, then the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.channels = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.channels(self.spatial(self.norm(x)))


def rebuild(content: Mapping) -> ViTHead:
    """Build the model that a model file describes, with random weights.

    Args:
        content: entries of the model file: `backbone` (name and options of timm's model),
            `clusters` and `settings`.

    Raises:
        InputError: timm does not know the transformer.
        KeyError: an entry is missing.
    """
    name, options = content["backbone"]["name"], content["backbone"]["options"]
    model = create_model(
        name, options, "features", pretrained=False, dynamic_img_size=True, global_pool="token"
    )
    data = timm.data.resolve_data_config(model=model)
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    transformer = Transformer(model, model.patch_embed.patch_size[0], mean, std)
    return ViTHead(transformer, content["clusters"] + 1, width=content["settings"]["head_width"])
