"""Self-supervised pretraining of the demo's two networks on generated clips, without any label.

One network is the vision transformer that makes the masks. The other is the ResNet that initialises
Mask R-CNN and DeepLab; the paper uses a ResNet of MoCo for this. They learn from clips of a resting
camera:

* What moves is an object (Pathak et al., "Learning Features by Watching Objects Move", 2017). The
  median of a clip's frames is its background, and pixels that differ from the background have
  moved. The networks learn to tell moving patches from resting ones in a single frame. The
  transformer predicts this from the quantities that MaskDistill uses: the affinity of [CLS] to
  patches (Eq. 1) and of patches to patches (Eq. 2).
* Hand-crafted descriptors of shape and texture (`descriptors`) describe what moved. The ResNet
  learns to predict them (as in MaskFeat, Wei et al., 2022) and to give things with similar
  descriptors similar embeddings (as in Tung and Mori, 2019).

The colours of a share of the frames are mixed at random, so that the networks learn shape and
texture. The generator's classes and masks are not used.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from workflow_scripts.maskdistill.demo.clips import Clips, crop, recolour
from workflow_scripts.maskdistill.demo.transformer_learner import TransformerLearner
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.torch_tools import resnet
from workflow_scripts.maskdistill.torch_tools.optimization import (
    build_optimizer,
    decay_groups,
    set_learning_rate,
)

# The demo's transformer: arguments of timm.create_model.
BACKBONE = "vit_tiny_patch16_224"
BACKBONE_OPTIONS = {
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 2,
    "img_size": 128,
}
RESNET_DEPTH = 10


class Recipe(NamedTuple):
    """The training schedule of a network."""

    clips: int
    steps: int
    batch_size: int
    view: int  # side of the crops in pixels
    learning_rate: float = 1e-3
    warmup: int = 50  # steps
    seed: int = 0


TRANSFORMER = Recipe(clips=8000, steps=4000, batch_size=32, view=80)
RESNET = Recipe(clips=4000, steps=400, batch_size=64, view=96)
TARGETS = 70  # descriptors per thing


def similarity_loss(embeddings: Tensor, targets: Tensor) -> Tensor:
    """How much the similarities between embeddings differ from those between their targets.

    Args:
        embeddings: B x d.
        targets: B x d'; rows of NaN are left out.

    Returns:
        Mean squared difference of the cosine similarities. The mean of the batch is subtracted from
        embeddings and from targets first.
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
    learner = TransformerLearner(model)

    def losses(rng: np.random.Generator, batch: Clips) -> dict[str, Tensor]:
        views, masks = crop(rng, batch, recipe.view)
        grid = masks.reshape(len(masks), recipe.view // patch, patch, -1, patch)
        share = torch.from_numpy(grid.mean(axis=(2, 4), dtype=np.float32))  # B x rows x columns
        corner = rng.integers(0, 128 // patch - recipe.view // patch + 1, size=2)
        affinity, keys = learner.encode(recolour(rng, views), corner)
        return {
            "eq1": learner.eq1_loss(affinity, share.flatten(1)),
            "eq2": learner.eq2_loss(keys, masks, share.flatten(1)),
        }

    return model, _fit(learner, losses, recipe, clips)


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
        """Embedding B x 512, and logits of movement at stride 16."""
        pixels = normalize((view + 1) / 2)
        stem = model.maxpool(model.relu(model.bn1(model.conv1(pixels))))
        middle = model.layer3(model.layer2(model.layer1(stem)))
        return model.layer4(middle).mean(dim=(2, 3)), learner["moving"](middle)[:, 0]

    def losses(rng: np.random.Generator, batch: Clips) -> dict[str, Tensor]:
        views, masks = crop(rng, batch, recipe.view)
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
    """Squared error of predicted descriptors; rows of NaN are left out."""
    known = ~targets.isnan().any(dim=1)
    return (predicted[known].float() - targets[known]).square().sum(dim=1).mean() / 3


def _fit(
    learner: nn.Module,
    losses: Callable[[np.random.Generator, Clips], dict[str, Tensor]],
    recipe: Recipe,
    clips: Clips,
) -> list[dict]:
    """Minimise the sum of the losses with AdamW: linear warm-up, then cosine decay."""
    matrices = [p for p in learner.parameters() if p.ndim > 1]
    vectors = [p for p in learner.parameters() if p.ndim <= 1]
    optimizer = build_optimizer(
        decay_groups(matrices, vectors),
        name="adamw",
        learning_rate=recipe.learning_rate,
        momentum=0.9,
        weight_decay=0.05,
    )
    curve = []
    learner.train()
    with progress_bar(total=recipe.steps, description="pretraining", unit="step") as bar:
        for step, chosen in enumerate(_batches(recipe, len(clips.frames))):
            rate = min(1, (step + 1) / recipe.warmup)
            rate *= 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
            set_learning_rate(optimizer, recipe.learning_rate * rate)
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
