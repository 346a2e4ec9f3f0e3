"""One training step of DeepLab and Mask R-CNN, compared with torchvision's own models."""

import copy
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor, nn

from tests.bench import Row, alternating_seconds
from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.segmentation.hard_pixels import hard_pixel_loss
from workflow_scripts.maskdistill.segmentation.upsampling import upsample
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings

CLUSTERS = 20
SIDE, LONGER = 240, 320  # shorter and longer side of Mask R-CNN's image


def rows() -> Iterator[Row]:
    """Seconds per step: forward pass, loss and backward pass."""
    yield deeplab()
    yield mask_rcnn_fpn()
    yield mask_rcnn_c4()


def deeplab() -> Row:
    """DeepLab with ResNet-50 and output stride 8, on two images of half the paper's side."""
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


def mask_rcnn_fpn() -> Row:
    """Mask R-CNN with FPN, on one image of half the paper's side."""
    settings = MaskRCNNSettings(fpn=True, frozen_stages=0, norm="batch", train_sides=(SIDE,))
    plain = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLUSTERS + 1,
        min_size=SIDE,
        max_size=LONGER,
    )
    ours = build_mask_rcnn(settings, CLUSTERS)
    plain.load_state_dict(ours.state_dict())
    image, target = _example()
    steps = (_step(ours, (image * 255).to(torch.uint8), target), _step(plain, image, target))
    seconds, reference = alternating_seconds(*steps, repeats=9)
    return Row(
        what=f"Mask R-CNN (FPN) step, 1 x {SIDE} x {LONGER}",
        value=seconds,
        unit="s",
        reference=reference,
        against="torchvision's maskrcnn_resnet50_fpn",
        at_most=1,
    )


def mask_rcnn_c4() -> Row:
    """Mask R-CNN with C4, as in the paper; compared with the default memory format.

    torchvision has no such model. Fewer regions than by default keep the benchmark short.
    """
    settings = MaskRCNNSettings(frozen_stages=0, norm="batch", sampled_proposals=64)
    ours = build_mask_rcnn(settings, CLUSTERS)
    plain = copy.deepcopy(ours).to(memory_format=torch.contiguous_format)
    image, target = _example()
    pixels = (image * 255).to(torch.uint8)
    steps = (_step(ours, pixels, target), _step(plain, pixels, target))
    seconds, reference = alternating_seconds(*steps)
    return Row(
        what=f"Mask R-CNN (C4) step, 1 x {SIDE} x {LONGER}",
        value=seconds,
        unit="s",
        reference=reference,
        against="the same model in the default memory format",
        at_most=1,
    )


def _example() -> tuple[Tensor, dict[str, Tensor]]:
    """An image with values from 0 to 1, and two objects."""
    masks = torch.zeros(2, SIDE, LONGER, dtype=torch.uint8)
    masks[0, 20:120, 30:200] = 1
    masks[1, 100:220, 150:300] = 1
    boxes = torchvision.ops.masks_to_boxes(masks)
    image = torch.rand(3, SIDE, LONGER, generator=torch.Generator().manual_seed(0))
    return image, {"boxes": boxes, "labels": torch.tensor([3, 7]), "masks": masks}


def _step(model: nn.Module, image: Tensor, target: dict[str, Tensor]) -> Callable[[], None]:
    """A training step of Mask R-CNN; models of equal weights sample equally many objects."""

    def step() -> None:
        # The time of the mask head depends on how many sampled regions are objects. The seed makes
        # this number the same for both models.
        torch.manual_seed(0)
        _backward(model, sum(model([image], [target]).values()))

    return step


def _backward(model: nn.Module, loss: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
