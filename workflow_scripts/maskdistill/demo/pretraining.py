"""Self-supervised pretraining of the demo's two networks on generated clips, without any label.

The vision transformer that masks are made with, and the ResNet that Mask R-CNN and DeepLab start
from (where the paper starts from MoCo's), learn from clips of a resting camera:

* what moves is an object (Pathak et al., "Learning Features by Watching Objects Move", 2017): the
  median of a clip is its background, and what differs from it has moved. The networks learn to tell
  moving patches from resting ones in a single frame; the transformer by the two quantities that
  MaskDistill reads, the affinity of [CLS] to the patches (Eq. 1) and of patches to patches (Eq. 2);
* what moved is described by hand-crafted descriptors of shape and texture (`descriptors`), and the
  ResNet's embedding learns their similarities (targets as in MaskFeat, Wei et al., 2022;
  similarities as in Tung and Mori, 2019).

Colours of a share of the frames are mixed at random: they say nothing.

The generator's classes and masks are not looked at.
"""

import concurrent.futures
import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from scipy import ndimage
from torch import Tensor, nn

from workflow_scripts.maskdistill.demo import descriptors, scenes
from workflow_scripts.maskdistill.progress import progress, progress_bar
from workflow_scripts.maskdistill.torch_tools import resnet

# The demo's transformer, as timm.create_model takes it.
BACKBONE = "vit_tiny_patch16_224"
BACKBONE_OPTIONS = {
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 2,
    "img_size": 128,
}
RESNET_DEPTH = 10
FRAME = 112  # side of a clip in pixels


class Recipe(NamedTuple):
    """How long, and on how many clips at a time, a network is trained."""

    clips: int
    steps: int
    batch_size: int
    view: int  # side of the crops in pixels
    learning_rate: float = 1e-3
    warmup: int = 50  # steps
    seed: int = 0


TRANSFORMER = Recipe(clips=8000, steps=4000, batch_size=32, view=80)
RESNET = Recipe(clips=4000, steps=400, batch_size=64, view=96)
TARGETS = 70  # descriptors of a thing


class Clips(NamedTuple):
    """One frame of each clip, what moved in it, and what that is like."""

    frames: np.ndarray  # n x H x W x 3, uint8
    moving: np.ndarray  # n x H x W, bool
    targets: (
        np.ndarray
    )  # n x d, float32: descriptors of what moved; NaN where that is not one thing


def draw_clips(count: int, *, seed: int, workers: int, describe: bool) -> Clips:
    """Draw clips, find what moves in them and, if asked to, describe it, in `workers` processes."""
    frames = np.empty((count, FRAME, FRAME, 3), np.uint8)
    moving = np.empty((count, FRAME, FRAME), bool)
    described: list[list[np.ndarray] | None] = []
    draw = functools.partial(_draw_clip, seed, describe)
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(draw, range(count), chunksize=20)
        for index, (frame, mask, description) in enumerate(
            progress(drawn, description="clips", unit="clip", total=count)
        ):
            frames[index], moving[index] = frame, mask
            described.append(description)
    targets = _standardize(described) if describe else np.empty((count, 0), np.float32)
    return Clips(frames, moving, targets)


def _draw_clip(
    seed: int, describe: bool, index: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray] | None]:
    rng = np.random.default_rng([seed, index])
    clip = scenes.clip(rng, size=FRAME)
    masks = motion_masks(clip)
    if not describe:
        return clip[0], masks[0], None
    descriptions = []
    for frame, mask in zip(clip, masks, strict=True):
        numbers, _ = ndimage.label(mask)
        sizes = np.bincount(numbers.ravel())[1:]
        if not len(sizes) or sizes.max() < 250 or sizes.max() < 0.9 * sizes.sum():
            continue  # nothing, or more than one thing
        grey = frame.astype(float) @ rng.normal(size=3)
        descriptions.append(descriptors.describe(grey, numbers == 1 + sizes.argmax()))
    if len(descriptions) < 4:
        return clip[0], masks[0], None
    # It is the same thing in all frames: their median is less noisy than any of them.
    parts = zip(*descriptions, strict=True)
    return clip[0], masks[0], [np.median(part, axis=0) for part in parts]


def _standardize(described: list[list[np.ndarray] | None]) -> np.ndarray:
    """Descriptors as one vector a clip; each of the three kinds has a variance of one in all."""
    known = [index for index, description in enumerate(described) if description is not None]
    kinds = []
    for values in zip(*(described[index] for index in known), strict=True):
        kind = np.stack(values)
        kinds.append((kind - kind.mean(0)) / (kind.std(0) + 1e-6) / kind.shape[1] ** 0.5)
    targets = np.full((len(described), sum(kind.shape[1] for kind in kinds)), np.nan, np.float32)
    targets[known] = np.concatenate(kinds, axis=1)
    return targets


def motion_masks(clip: np.ndarray, *, threshold: float = 24.0) -> np.ndarray:
    """What moves before a resting camera, by background subtraction.

    Args:
        clip: frames x H x W x 3, uint8.
        threshold: difference from the median frame, in grey levels, that is no noise.

    Returns:
        frames x H x W, bool.
    """
    background = np.median(clip, axis=0)
    masks = np.empty(clip.shape[:3], bool)
    for mask, frame in zip(masks, clip, strict=True):
        difference = np.abs(frame - background).max(axis=2)
        changed = ndimage.median_filter(difference, 3) > threshold
        solid = ndimage.binary_fill_holes(ndimage.binary_closing(changed, iterations=2))
        mask[:] = ndimage.binary_opening(solid, iterations=2)
    return masks


def recolour(rng: np.random.Generator, images: np.ndarray, share: float = 0.3) -> Tensor:
    """Mix the colours of a share of the images at random, so that only shape and texture tell.

    The mixture is any linear one: hues turn and merge, and light may become dark. Brightness and
    contrast are drawn anew.

    Args:
        images: B x H x W x 3, uint8.
        share: of the images, 0..1; the rest keep their colours.

    Returns:
        B x 3 x H x W, float32, about -1 to 1.
    """
    pixels = torch.from_numpy(images).float() / 127.5 - 1
    mixing = torch.from_numpy(rng.normal(size=(len(images), 3, 3))).float()
    mixed = torch.einsum("bhwc,bdc->bdhw", pixels, mixing)
    mixed = mixed - mixed.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = torch.from_numpy(
        rng.uniform([[0.25], [-0.3]], [[0.6], [0.3]], size=(2, len(images)))
    ).float()[:, :, None, None, None]
    mixed = mixed / mixed.std(dim=(1, 2, 3), keepdim=True) * contrast + brightness
    chosen = torch.from_numpy(rng.uniform(size=len(images)) < share)[:, None, None, None]
    return torch.where(chosen, mixed, pixels.permute(0, 3, 1, 2))


def similarity_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """The embeddings of a batch are as like each other as their targets are.

    Args:
        embeddings: B x d.
        targets: B x d'; rows of NaN take no part.

    Returns:
        Mean squared difference of the two tables of cosines, each about its batch's mean.
    """
    known = ~targets.isnan().any(dim=1)

    def cosines(vectors: Tensor) -> Tensor:
        vectors = F.normalize(vectors - vectors.mean(dim=0), dim=1)
        return vectors @ vectors.T

    return (cosines(embeddings[known].float()) - cosines(targets[known])).square().mean()


def pretrain_transformer(recipe: Recipe, clips: Clips) -> tuple[nn.Module, list[dict]]:
    """Train the demo's vision transformer.

    Returns:
        The timm model, and the losses every 10 steps.
    """
    torch.manual_seed(recipe.seed)
    model = timm.create_model(BACKBONE, num_classes=0, dynamic_img_size=True, **BACKBONE_OPTIONS)
    patch = BACKBONE_OPTIONS["patch_size"]
    learner = _TransformerLearner(model)

    def losses(rng: np.random.Generator, batch: Clips) -> dict[str, Tensor]:
        views, masks = _crop(rng, batch, recipe.view)
        grid = masks.reshape(len(masks), recipe.view // patch, patch, -1, patch)
        share = torch.from_numpy(grid.mean(axis=(2, 4), dtype=np.float32))  # B x rows x columns
        corner = rng.integers(0, 128 // patch - recipe.view // patch + 1, size=2)
        affinity, keys = learner.encode(recolour(rng, views), corner)
        return {
            "eq1": learner.eq1_loss(affinity, share.flatten(1)),
            "eq2": learner.eq2_loss(keys, masks, share.flatten(1)),
        }

    return model, _fit(learner, losses, recipe, clips)


class _TransformerLearner(nn.Module):
    """The transformer with what only pretraining needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Scales, and the one offset, of the logits that Eq. 1 and 2 are read as.
        self.scales = nn.Parameter(torch.tensor([1.0, 1.0]))
        self.offset = nn.Parameter(torch.tensor(-1.0))
        for block in model.blocks:
            # On a CPU the plain products are twice as fast, backwards, as the fused kernel.
            block.attn.fused_attn = False

    def encode(self, views: Tensor, corner: np.ndarray) -> tuple[Tensor, Tensor]:
        """a_CLS of Eq. 1 (B x N), and the keys less their mean (B x N x d).

        Views take their position embedding from a part of the grid, at `corner`, so that every part
        of it is trained.
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
        """[CLS] is near to the patches that move.

        Args:
            affinity: a_CLS, B x N.
            share: of each patch that moves, B x N.
        """
        logits = self.scales[0].exp() * affinity / affinity.shape[1] ** 0.5 + self.offset
        return F.binary_cross_entropy_with_logits(logits, share)

    def eq2_loss(self, keys: Tensor, masks: np.ndarray, share: Tensor) -> Tensor:
        """Patches of one moving thing have a positive affinity, and a negative one to what rests.

        Args:
            keys: centred, B x N x d.
            masks: what moves, B x H x W; its components are the things.
            share: of each patch that moves, B x N.
        """
        things = torch.from_numpy(_things(masks, share.shape[1]))
        moves = (share > 0.5).float()
        rests = (share == 0).float()
        same = (things[:, :, None] == things[:, None, :]).float() * moves[:, None]
        # Rows are patches that move; of columns, patches of other things and borders say nothing.
        weight = moves[:, :, None] * (same + rests[:, None])
        # The two outcomes count alike, however small the thing.
        balance = same / same.sum(2, keepdim=True).clamp(min=1)
        balance = balance + (1 - same) / rests.sum(1).clamp(min=1)[:, None, None]
        logits = self.scales[1].exp() * (keys @ keys.transpose(1, 2)) / keys.shape[2] ** 0.5
        loss = F.binary_cross_entropy_with_logits(logits, same, reduction="none")
        weight = weight * balance
        return (loss * weight).sum() / weight.sum().clamp(min=1e-6)


def pretrain_resnet(recipe: Recipe, clips: Clips) -> tuple[nn.Module, list[dict]]:
    """Train the ResNet that the demo's Mask R-CNN and DeepLab start from.

    Returns:
        The torchvision model without classifier, and the losses every 10 steps.
    """
    torch.manual_seed(recipe.seed)
    model = resnet.build_resnet(RESNET_DEPTH)
    learner = nn.ModuleDict(
        {
            "trunk": model,
            "head": nn.Linear(512, TARGETS),
            "moving": nn.Conv2d(256, 1, kernel_size=1),
        }
    )
    normalize = torchvision.transforms.Normalize(resnet.MEAN, resnet.STD)

    def encode(view: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding B x 512, and logits of moving at stride 16."""
        pixels = normalize((view + 1) / 2)
        stem = model.maxpool(model.relu(model.bn1(model.conv1(pixels))))
        middle = model.layer3(model.layer2(model.layer1(stem)))
        return model.layer4(middle).mean(dim=(2, 3)), learner["moving"](middle)[:, 0]

    def losses(rng: np.random.Generator, batch: Clips) -> dict[str, Tensor]:
        views, masks = _crop(rng, batch, recipe.view)
        embedding, logits = encode(recolour(rng, views))
        share = F.adaptive_avg_pool2d(torch.from_numpy(masks.astype(np.float32)), logits.shape[1:])
        targets = torch.from_numpy(batch.targets)
        return {
            "moving": F.binary_cross_entropy_with_logits(logits, share),
            "like": 5 * similarity_loss(embedding, targets),
            "target": 5 * _target_loss(learner["head"](embedding), targets),
        }

    return model, _fit(learner, losses, recipe, clips)


def _target_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Squared error of predicted descriptors; rows of NaN take no part."""
    known = ~targets.isnan().any(dim=1)
    return (predicted[known].float() - targets[known]).square().sum(dim=1).mean() / 3


def _fit(learner: nn.Module, losses, recipe: Recipe, clips: Clips) -> list[dict]:
    """Minimise the sum of the losses with AdamW; a linear warm-up, then half a cosine."""
    matrices = [p for p in learner.parameters() if p.ndim > 1]
    vectors = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    curve = []
    learner.train()
    with progress_bar(total=recipe.steps, description="pretraining", unit="step") as bar:
        for step, chosen in enumerate(_batches(recipe, len(clips.frames))):
            rate = min(1, (step + 1) / recipe.warmup)
            rate *= 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate
            rng = np.random.default_rng([recipe.seed, step])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                parts = losses(rng, Clips(*(part[chosen] for part in clips)))
            optimizer.zero_grad()
            sum(parts.values()).backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 3.0)
            optimizer.step()
            if step % 10 == 0:
                values = {name: round(part.item(), 4) for name, part in parts.items()}
                curve.append({"step": step, **values})
                bar.set_postfix(values)
            bar.update()
    return curve


def _batches(recipe: Recipe, count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(recipe.seed)
    for _ in range(recipe.steps):
        yield np.sort(rng.choice(count, recipe.batch_size, replace=False))


def _crop(rng: np.random.Generator, batch: Clips, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The same window of all frames: B x side x side x 3, and masks B x side x side."""
    top, left = rng.integers(0, FRAME - side + 1, size=2)
    window = (slice(None), slice(top, top + side), slice(left, left + side))
    return batch.frames[window], batch.moving[window]


def _things(masks: np.ndarray, patches: int) -> np.ndarray:
    """The number of the moving component that most of each patch belongs to: B x N, 0 is none."""
    side = math.isqrt(patches)
    patch = masks.shape[1] // side
    numbers = np.stack([ndimage.label(mask)[0] for mask in masks])
    cells = numbers.reshape(len(masks), side, patch, side, patch).swapaxes(2, 3)
    # A patch has mostly one thing in it; the largest number is as good as the most frequent.
    return cells.reshape(len(masks), patches, -1).max(axis=2)
