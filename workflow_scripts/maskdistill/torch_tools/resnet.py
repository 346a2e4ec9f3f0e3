"""ResNets without classifier for Mask R-CNN and DeepLab: weights, frozen stages, dilation."""

import os
from collections.abc import Callable

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from workflow_scripts.maskdistill.torch_tools.weights import load_strictly, read_state_dict

# For each `ResNetDepth`: kind of block, and number of blocks in each of the four stages.
BLOCKS = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
# Mean and standard deviation of ImageNet, RGB in 0..1, to normalise the input.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Parameters of checkpoints that are ignored, by prefix: classifiers and MoCo's projector.
_HEADS = ("fc.", "head.", "projector.", "predictor.")


def build_resnet(
    depth: int,
    *,
    weights: str | os.PathLike | None = None,
    frozen_stages: int = 0,
    output_stride: int = 32,
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> torchvision.models.ResNet:
    """A torchvision ResNet without its classifier (`fc` is the identity).

    Args:
        depth: one of `BLOCKS`; 10 has one block per stage.
        weights: checkpoint with parameter names of torchvision or MoCo (v1, v2, v3); None for
            random weights.
        frozen_stages: 0 freezes nothing, 1 the stem, 2 the stem and layer1, and so on. Frozen
            batch normalisation stays in evaluation mode, see `keep_frozen`.
        output_stride: 32 without dilation; 16 with dilation in the last stage, or 8 in the last
            two, for DeepLab. torchvision cannot dilate basic blocks (depths 10 and 18); only the
            stride of these stages is removed.
        norm_layer: function from a number of channels to a normalisation layer.

    Raises:
        InputError: the checkpoint does not fit the ResNet.
        ValueError: the depth or the output stride is unknown.
    """
    if depth not in BLOCKS:
        raise ValueError(f"ResNet-{depth}: choose one of {', '.join(map(str, BLOCKS))}")
    dilate = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}
    if output_stride not in dilate:
        raise ValueError(f"output stride {output_stride}: choose one of {sorted(dilate)}")
    block, numbers = BLOCKS[depth]
    dilated = dilate[output_stride]
    model = torchvision.models.ResNet(
        block,
        list(numbers),
        norm_layer=norm_layer,
        replace_stride_with_dilation=None if block is BasicBlock else list(dilated),
    )
    if block is BasicBlock:
        for stage, without_stride in zip((2, 3, 4), dilated, strict=True):
            if without_stride:
                _remove_stride(getattr(model, f"layer{stage}"))
    model.fc = nn.Identity()
    if weights is not None:
        load_strictly(model, read_state_dict(weights), source=weights, ignore=_HEADS)
    for stage in _stages(model)[:frozen_stages]:
        stage.requires_grad_(False)
    return model


def output_channels(stage: nn.Sequential) -> int:
    """Number of output channels of a stage of a ResNet."""
    convolutions = [module for module in stage[-1].modules() if isinstance(module, nn.Conv2d)]
    return convolutions[-1].out_channels


def keep_frozen(model: nn.Module) -> None:
    """Put batch normalisation whose parameters are frozen back into evaluation mode.

    Call after `model.train()`.
    """
    for module in model.modules():
        normalises = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
        if normalises and not module.weight.requires_grad:
            module.eval()


def _stages(model: torchvision.models.ResNet) -> list[nn.Module]:
    stem = nn.ModuleList([model.conv1, model.bn1])
    return [stem, model.layer1, model.layer2, model.layer3, model.layer4]


def _remove_stride(stage: nn.Sequential) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
