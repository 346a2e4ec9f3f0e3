"""A light segmentation model for machines without a GPU: a linear decoder on a frozen transformer.

The transformer is that of `features`, whose tokens of the run's images are stored with their
features. Only the decoder is trained, in a minute on a CPU. A decoder with more layers learned
small sets of label maps by heart, and its label maps of other images were worse than those it had
learned from.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from workflow_scripts.maskdistill.discovery.timm_models import create_model
from workflow_scripts.maskdistill.files.image_sizes import resized_size
from workflow_scripts.maskdistill.segmentation.interpolation import cubic, resizing

CELLS = 4  # positions of the logits along a side of a patch
# The least probability of the foreground, summed over its classes, at which a pixel belongs to it.
# If the best F1 score that a classifier can reach is F, the threshold that reaches it is F / 2
# (Lipton et al., 2014). An IoU of 2/3 between masks and objects is an F1 score of 0.8.
FOREGROUND_THRESHOLD = 0.4


class Transformer(NamedTuple):
    """A frozen transformer of timm, and its input."""

    model: nn.Module
    patch_size: int
    shorter_side: int  # pixels that images are resized to
    longer_side: int | None  # upper bound in pixels
    mean: Tensor  # 1 x 3 x 1 x 1, for pixel values from 0 to 1
    std: Tensor  # likewise


class Tokens(NamedTuple):
    """What the transformer says about images."""

    image: Tensor  # B x d: the token [CLS] after the last block
    patches: Tensor  # B x d x rows x columns: the tokens of the patches after the last block


class ViTHead(nn.Module):
    """A frozen transformer, and a linear decoder from its tokens to one output per class.

    The logits of a patch are W p + V c + b with the patch's token p and the token c of [CLS], so
    that what the whole image shows supports the class of each of its patches.

    Args:
        transformer: a transformer with a class token, for images of any size.
        classes: number of outputs, background included.
        dropout: share of the tokens' components that are dropped in training.

    Attributes:
        transformer: timm's model.
        output_stride: the patch size in pixels; the sides of the input are multiples of it.
        sides: shorter side in pixels that images are resized to, and bound on the longer one.
        cells: number of positions of the logits along this number of pixels.
    """

    cells = CELLS

    def __init__(self, transformer: Transformer, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.output_stride = transformer.patch_size
        self.sides = (transformer.shorter_side, transformer.longer_side)
        self.transformer = transformer.model.eval().requires_grad_(False)
        self.register_buffer("mean", transformer.mean)
        self.register_buffer("std", transformer.std)
        self.dropout = nn.Dropout(dropout)
        self.of_patch = nn.Conv2d(self.transformer.embed_dim, classes, 1)
        self.of_image = nn.Linear(self.transformer.embed_dim, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of images, the largest of which is the predicted class.

        Args:
            images: results of `normalize`, B x 3 x H x W; H and W are multiples of the patch size
                P.

        Returns:
            B x classes x (CELLS H / P) x (CELLS W / P), see `decide`.
        """
        return decide(self.decode(self.tokens(images)))

    def normalize(self, images: Tensor) -> Tensor:
        """B x H x W x 3 uint8 to B x 3 x H x W float32, as the transformer was trained."""
        return (images.permute(0, 3, 1, 2) / 255 - self.mean) / self.std

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) without padding to which an image of `size` is resized for the model."""
        shorter_side, longer_side = self.sides
        return resized_size(*size, shorter_side=shorter_side, longer_side=longer_side)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tokens:
        """The transformer's last tokens of images, as in `forward`."""
        transformer = self.transformer
        if type(transformer) is VisionTransformer:  # subclasses have other tokens
            found, size = _tokens_of_any_size(transformer, images)
        else:
            found = transformer.forward_features(images)
            size = [side // self.output_stride for side in images.shape[-2:]]
        patches = found[:, transformer.num_prefix_tokens :]
        return Tokens(found[:, 0], patches.transpose(1, 2).unflatten(2, size))

    def decode(self, tokens: Tokens) -> Tensor:
        """Logits: B x classes x (CELLS rows) x (CELLS columns).

        The patches may be a window of an image. Apart from the interpolation at its border, the
        logits are those of the image.
        """
        logits = self.of_patch(self.dropout(tokens.patches))
        logits = logits + self.of_image(self.dropout(tokens.image))[:, :, None, None]
        size = [CELLS * side for side in tokens.patches.shape[-2:]]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def train(self, mode: bool = True) -> "ViTHead":
        """Set training mode of the decoder; the transformer never drops anything."""
        super().train(mode)
        self.transformer.eval()
        return self


def decide(logits: Tensor) -> Tensor:
    """Logits whose largest one is a class of the foreground if their sum is probable enough.

    The probability of the foreground is often shared among several classes, each of which is less
    probable than the background. Here the most probable class stands for all of them.

    Args:
        logits: B x classes x H x W; class 0 is the background.

    Returns:
        The same shape. The logit of background is kept. Those of the other classes keep their
        differences; the largest of them exceeds that of background where the foreground has at
        least the probability `FOREGROUND_THRESHOLD`. Their softmax is therefore not the probability
        that the model gives to each class.
    """
    background, classes = logits[:, :1], logits[:, 1:]
    shift = math.log((1 - FOREGROUND_THRESHOLD) / FOREGROUND_THRESHOLD)
    foreground = classes.logsumexp(dim=1, keepdim=True) + shift
    best = classes.amax(dim=1, keepdim=True)
    return torch.cat([background, classes - best + foreground], dim=1)


def _tokens_of_any_size(model: VisionTransformer, images: Tensor) -> tuple[Tensor, Sequence[int]]:
    """All tokens after the last block, and the rows and columns of the patches.

    Unlike timm's own forward pass, this one has the same graph for all image sizes, so that it can
    be exported.
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
        # Equal to `F.interpolate`, with which timm resizes position embeddings.
        to_rows, to_columns = (
            resizing(cubic, *sides, device=grid.device)
            for sides in zip(grid.shape[-2:], size, strict=True)
        )
        grid = to_rows @ grid @ to_columns.T
        patches = patches + grid.flatten(2).transpose(1, 2)
        prefix = prefix + own if placed else prefix
    tokens = model.norm_pre(model.pos_drop(torch.cat([prefix, patches], dim=1)))
    for block in model.blocks:
        tokens = block(tokens)
    return model.norm(tokens), size


def rebuild(content: Mapping) -> ViTHead:
    """Build the model that a model file describes, with random weights.

    Args:
        content: entries of the model file: `backbone` (name and options of timm's model, and the
            sides of its input), `clusters` and `settings`.

    Raises:
        InputError: timm does not know the transformer.
        KeyError: an entry is missing.
    """
    backbone = content["backbone"]
    name, options = backbone["name"], backbone["options"]
    model = create_model(
        name, options, "features", pretrained=False, dynamic_img_size=True, global_pool="token"
    )
    data = timm.data.resolve_data_config(model=model)
    mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    transformer = Transformer(
        model,
        model.patch_embed.patch_size[0],
        backbone["shorter_side"],
        backbone["longer_side"],
        mean,
        std,
    )
    return ViTHead(transformer, content["clusters"] + 1, dropout=content["settings"]["dropout"])
