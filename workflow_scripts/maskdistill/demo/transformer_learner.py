"""The demo's transformer, pretrained with losses on the paper's affinities (Eq. 1 and 2)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn


class TransformerLearner(nn.Module):
    """A vision transformer of timm with the parameters and losses of its pretraining."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Affinities times a scale (plus an offset for Eq. 1) are logits. The scales are logarithms.
        self.scales = nn.Parameter(torch.tensor([1.0, 1.0]))
        self.offset = nn.Parameter(torch.tensor(-1.0))
        for block in model.blocks:
            # On a CPU the backward pass is twice as fast without the fused kernel for attention.
            block.attn.fused_attn = False

    def encode(self, views: Tensor, corner: np.ndarray) -> tuple[Tensor, Tensor]:
        """a_CLS of Eq. 1 (B x N), and the keys minus their mean (B x N x d).

        Views are smaller than the input size of the model. They use the part of the position
        embedding at `corner`, (row, column), so that random corners train every part of it.
        """
        model = self.model
        patches = model.patch_embed(views)
        rows, columns = patches.shape[1:3]
        top, left = (int(c) for c in corner)
        cls_position, positions = model.pos_embed[:, :1], model.pos_embed[:, 1:]
        positions = positions.unflatten(1, model.patch_embed.grid_size)
        patches = patches + positions[:, top : top + rows, left : left + columns]
        cls = (model.cls_token + cls_position).expand(len(views), -1, -1)
        tokens = torch.cat([cls, patches.flatten(1, 2)], dim=1)
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        heads = last.attn.num_heads
        query, keys, _ = last.attn.qkv(last.norm1(tokens)).chunk(3, dim=2)
        affinity = torch.einsum("bd,bnd->bn", query[:, 0], keys[:, 1:]) / heads
        keys = keys[:, 1:] - keys[:, 1:].mean(dim=1, keepdim=True)
        return affinity, keys / heads**0.5

    def eq1_loss(self, affinity: Tensor, share: Tensor) -> Tensor:
        """Loss that makes [CLS] similar to the patches that move.

        Args:
            affinity: a_CLS, B x N.
            share: share of each patch that moves, B x N.
        """
        logits = self.scales[0].exp() * affinity / affinity.shape[1] ** 0.5 + self.offset
        return F.binary_cross_entropy_with_logits(logits, share)

    def eq2_loss(self, keys: Tensor, masks: np.ndarray, share: Tensor) -> Tensor:
        """Loss for positive affinities within a moving thing and negative ones to the background.

        Args:
            keys: centred keys, B x N x d.
            masks: masks of what moves, B x H x W; their components are the things.
            share: share of each patch that moves, B x N.
        """
        things = torch.from_numpy(_things(masks, share.shape[1]))
        moves = (share > 0.5).float()
        rests = (share == 0).float()
        same = (things[:, :, None] == things[:, None, :]).float() * moves[:, None]
        # Each moving patch is paired with the moving patches of its own thing (positive pairs) and
        # with the patches in which nothing moves (negative pairs). Pairs with other things get
        # weight 0, and so do pairs with patches of which a part, but not more than half, moves.
        weight = moves[:, :, None] * (same + rests[:, None])
        # Per patch, all positive pairs weigh as much as all negative ones.
        balance = same / same.sum(2, keepdim=True).clamp(min=1)
        balance = balance + (1 - same) / rests.sum(1).clamp(min=1)[:, None, None]
        logits = self.scales[1].exp() * (keys @ keys.transpose(1, 2)) / keys.shape[2] ** 0.5
        loss = F.binary_cross_entropy_with_logits(logits, same, reduction="none")
        weight = weight * balance
        return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def _things(masks: np.ndarray, patches: int) -> np.ndarray:
    """The number of the moving thing in each patch: B x N, 0 for patches without one."""
    side = math.isqrt(patches)
    patch = masks.shape[1] // side
    numbers = np.stack([ndimage.label(mask)[0] for mask in masks])
    cells = numbers.reshape(len(masks), side, patch, side, patch).swapaxes(2, 3)
    # Most patches show only one thing, so the largest number is nearly always the most frequent.
    return cells.reshape(len(masks), patches, -1).max(axis=2)
