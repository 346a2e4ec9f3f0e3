"""One training step of DeepLab and Mask R-CNN, against torchvision's own models."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn

from tests.bench import Row, alternating_seconds
from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.mask_rcnn.settings import TrainingSettings
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab, upsample
from workflow_scripts.maskdistill.segmentation.hard_pixels import hard_pixel_loss

CLUSTERS = 20


def rows() -> Iterator[Row]:
    """Seconds a step: forwards, loss, backwards."""
    yield deeplab()
    yield mask_rcnn()


def deeplab() -> Row:
    """ResNet-50, output stride 8, two images of half the paper's side."""
    images, side = 2, 256
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(images, 3, side, side, generator=generator)
    labels = torch.randint(0, CLUSTERS + 1, (images, side, side), generator=generator)
    ours = build_deeplab(
        CLUSTERS,
        depth=50,
        output_stride=8,
        atrous_rates=(12, 24, 36),
        head_width=256,
        dropout=0.5,
        frozen_stages=0,
    ).to(memory_format=torch.channels_last)
    plain = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=CLUSTERS + 1
    )

    def our_step() -> None:
        logits = ours(batch.contiguous(memory_format=torch.channels_last))
        scores = upsample(logits, (side, side))
        _backward(ours, hard_pixel_loss(scores, labels, hardest_fraction=0.2))

    def plain_step() -> None:
        _backward(plain, nn.functional.cross_entropy(plain(batch)["out"], labels))

    seconds, reference = alternating_seconds(our_step, plain_step)
    return Row(
        what=f"DeepLab-v3 step, {images} x {side} x {side}",
        value=seconds,
        unit="s",
        reference=reference,
        against="torchvision's deeplabv3_resnet50",
        at_most=1,
    )


def mask_rcnn() -> Row:
    """FPN, which torchvision has too (its C4 it has not), one image of half the paper's side."""
    side, longer = 240, 320
    settings = TrainingSettings(fpn=True, frozen_stages=0, norm="batch", train_sides=(side,))
    ours = build_mask_rcnn(settings, CLUSTERS)
    plain = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLUSTERS + 1,
        min_size=side,
        max_size=longer,
    )
    plain.load_state_dict(ours.state_dict())
    masks = torch.zeros(2, side, longer, dtype=torch.uint8)
    masks[0, 20:120, 30:200] = 1
    masks[1, 100:220, 150:300] = 1
    boxes = torchvision.ops.masks_to_boxes(masks)
    target = {"boxes": boxes, "labels": torch.tensor([3, 7]), "masks": masks}
    image = torch.rand(3, side, longer, generator=torch.Generator().manual_seed(0))

    # The same regions are drawn: how many of them are objects decides on the mask head's share.
    def our_step() -> None:
        torch.manual_seed(0)
        _backward(ours, sum(ours([(image * 255).to(torch.uint8)], [target]).values()))

    def plain_step() -> None:
        torch.manual_seed(0)
        _backward(plain, sum(plain([image], [target]).values()))

    seconds, reference = alternating_seconds(our_step, plain_step)
    return Row(
        what=f"Mask R-CNN (FPN) step, 1 x {side} x {longer}",
        value=seconds,
        unit="s",
        reference=reference,
        against="torchvision's maskrcnn_resnet50_fpn",
        at_most=1,
    )


def _backward(model: nn.Module, loss: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
