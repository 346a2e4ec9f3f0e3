"""DeepLab-v3 (Chen et al., 2017) on a dilated ResNet."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from workflow_scripts.maskdistill.segmentation.transforms import normalize
from workflow_scripts.maskdistill.settings.sections.segmentation import SegmentationSettings
from workflow_scripts.maskdistill.torch_tools import sampling
from workflow_scripts.maskdistill.torch_tools.resnet import (
    build_resnet,
    keep_frozen,
    output_channels,
)

_DEFAULTS = SegmentationSettings()

# Settings that a model file must contain, so that the model can be built again from it.
ARCHITECTURE = (
    "depth",
    "output_stride",
    "frozen_stages",
    "atrous_rates",
    "head_width",
    "dropout",
)


class DeepLab(nn.Module):
    """A ResNet trunk, atrous spatial pyramid pooling, and one output per class.

    Args:
        trunk: ResNet without classifier.
        classes: outputs, background included.
        atrous_rates: dilation of the pyramid's 3 x 3 convolutions, in positions of the trunk's
            output; (12, 24, 36) for output stride 8, (6, 12, 18) for 16.
        head_width: channels of the head.
        dropout: probability that the pyramid's outputs are set to 0 in training.
    """

    cells = 1  # number of logits along `output_stride` pixels of a row or column
    normalize = staticmethod(normalize)

    def __init__(
        self,
        trunk: nn.Module,
        classes: int,
        *,
        output_stride: int,
        atrous_rates: Sequence[int],
        head_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.trunk = trunk
        channels = output_channels(trunk.layer4)
        pyramid = ASPP(channels, list(atrous_rates), head_width)
        for number, module in enumerate(pyramid.project):
            if isinstance(module, nn.Dropout):
                pyramid.project[number] = ImageDropout(dropout)
        for branch in pyramid.convs:
            if isinstance(branch, nn.Sequential) and isinstance(branch[0], nn.AdaptiveAvgPool2d):
                branch[2] = PooledBatchNorm(head_width)
        self.head = nn.Sequential(
            pyramid,
            nn.Conv2d(head_width, head_width, 3, padding=1, bias=False),
            nn.BatchNorm2d(head_width),
            nn.ReLU(),
            nn.Conv2d(head_width, classes, 1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B x classes x h x w, at the trunk's stride) of images (B x 3 x H x W).

        `upsampling.upsample` resizes the logits to the images' size.
        """
        trunk = self.trunk
        x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
        x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(x))))
        return self.head(x)

    def train(self, mode: bool = True) -> "DeepLab":
        """Set training mode, except for frozen batch normalisation, which keeps its statistics."""
        super().train(mode)
        keep_frozen(self)
        return self


class ImageDropout(nn.Dropout):
    """Dropout whose random numbers do not depend on the device or the number of processes.

    They depend on the training step and on the image's position in the global batch, see
    `sampling.image_generators`. They are drawn on the CPU, while a GPU still computes the previous
    layers. The probability is rounded to a multiple of 1 / 65,536.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set elements of x (B x C x H x W) to 0 in training, and scale up the others."""
        if not self.training or not self.p:
            return x
        images, channels, *size = x.shape
        kept = torch.empty(images, *size, channels, dtype=torch.bool, pin_memory=x.is_cuda)
        threshold = round(2**16 * (1 - self.p))
        for image, generator in zip(kept, sampling.image_generators(images), strict=True):
            # NumPy draws raw 64-bit numbers fastest; each is split into four of 16 bits.
            bits = generator.bit_generator.random_raw(-(-image.numel() // 4)).view(np.uint16)
            np.less(bits[: image.numel()].reshape(image.shape), threshold, out=image.numpy())
        # `kept` is B x H x W x C in memory, which is the memory order of channels-last features.
        factors = kept.to(x.device, non_blocking=True).permute(0, 3, 1, 2).to(x.dtype)
        return x * factors.mul_(2**16 / max(1, threshold))


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch normalisation after global pooling.

    A batch of one image has a single value per channel and thus no variance. The running
    statistics are used for such a batch.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x of B x C x 1 x 1."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def build_deeplab(
    clusters: int,
    *,
    depth: int = _DEFAULTS.depth,
    output_stride: int = _DEFAULTS.output_stride,
    weights: str | os.PathLike | None = None,
    frozen_stages: int = _DEFAULTS.frozen_stages,
    atrous_rates: Sequence[int] = _DEFAULTS.atrous_rates,
    head_width: int = _DEFAULTS.head_width,
    dropout: float = _DEFAULTS.dropout,
) -> DeepLab:
    """DeepLab-v3 with `clusters` + 1 outputs (paper, Section 4.1).

    Args:
        clusters: C; output 0 is the background.
        weights: ResNet checkpoint (MoCo in the paper); None for random weights.
        frozen_stages: number of frozen stages of the ResNet, see `build_resnet`.

    Raises:
        InputError: the checkpoint does not fit the ResNet.
        ValueError: the depth or the output stride is unknown.
    """
    trunk = build_resnet(
        depth, weights=weights, frozen_stages=frozen_stages, output_stride=output_stride
    )
    return DeepLab(
        trunk,
        clusters + 1,
        output_stride=output_stride,
        atrous_rates=atrous_rates,
        head_width=head_width,
        dropout=dropout,
    )
