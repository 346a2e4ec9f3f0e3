"""Saves the results of one or several processes for a batch, to compare one with several.

python -m tests.maskdistill.torch_tools.global_batch FOLDER, with or without torchrun, writes a file
RANK.pt per process, with tensors for each case. All is computed in float64, so that rounding errors
are tiny: two results either agree to many digits or really differ.
"""

import sys

import torch
from torch import nn

from workflow_scripts.maskdistill.mask_rcnn.network import build_mask_rcnn
from workflow_scripts.maskdistill.mask_rcnn.proposals import ImageSampler
from workflow_scripts.maskdistill.segmentation.deeplab import ImageDropout
from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX, hard_pixel_loss
from workflow_scripts.maskdistill.settings.sections.mask_rcnn import MaskRCNNSettings
from workflow_scripts.maskdistill.torch_tools import distributed
from workflow_scripts.maskdistill.torch_tools.sampling import seed_step

CPU = torch.device("cpu")
IMAGES = 4
# For each of four images, how many of its 30 pixels have a label. With two processes, the second
# one has the last two images.
LABELLED = {
    "even": [30, 30, 30, 30],
    "uneven": [3, 8, 30, 21],
    "none in the second process": [7, 20, 0, 0],
    "none in the first process": [0, 0, 0, 11],
    "none": [0, 0, 0, 0],
}
MASK_RCNN = {
    "depth": 10,
    "weights": None,
    "frozen_stages": 0,
    "norm": "batch",
    "roi_size": 4,
    "anchor_sizes": [12, 24],
    "proposals": 10,
    "sampled_proposals": 8,
    "sampled_anchors": 16,
}
PYRAMID = {"fpn": True, "fpn_channels": 32, "anchor_sizes": [8, 16, 24, 32, 48]}
# Number of objects in each image; an image without objects has no positive regions.
OBJECTS = {"uneven": [3, 1, 1, 0], "none in the second process": [1, 2, 0, 0]}


def own(values):
    """This process's part of a list with one item for each image of the batch."""
    share = len(values) // distributed.world_size()
    return values[distributed.rank() * share :][:share]


def numbers(*shape, seed=0):
    """Random numbers that are the same in every process."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss_of_hard_pixels(labelled, fraction, *, tied=False):
    """The loss, and its gradient in this process's logits, divided by the number of processes."""
    logits = torch.zeros(IMAGES, 3, 5, 6) if tied else numbers(IMAGES, 3, 5, 6)
    labels = torch.arange(IMAGES * 30).reshape(IMAGES, 5, 6) % 3
    for image, count in zip(labels, labelled, strict=True):
        image.view(-1)[count:] = IGNORE_INDEX
    part = own(logits).clone().requires_grad_()
    loss = hard_pixel_loss(part, own(labels), hardest_fraction=fraction)
    loss.backward()
    (mean,) = distributed.means([loss.item()], CPU)
    return {"common": [mean], "parts": [part.grad / distributed.world_size()]}


def drawn():
    """The random draws of dropout and of the sampler of boxes, twice in each of two steps."""
    dropout, sampler = ImageDropout(0.3).train(), ImageSampler(12, 0.25)
    matched = [(numbers(50, seed=number) > 0.5).long() for number in range(IMAGES)]
    dropped, chosen = [], []
    for step in (0, 1):
        seed_step(7, step)
        for _ in range(2):
            dropped.append(dropout(own(torch.ones(IMAGES, 3, 5, 7))))
            chosen += [torch.stack(masks) for masks in sampler(own(matched))]
    return {"common": [], "parts": dropped + chosen}


def batch_norm(sizes):
    """Batch normalisation of parts of the given sizes: two training steps, then evaluation."""
    x = numbers(sum(sizes), 3, 2, 2) * 3 + 5
    weights = numbers(*x.shape, seed=1)
    if distributed.world_size() > 1:
        part, weights = x.split(sizes)[distributed.rank()], weights.split(sizes)[distributed.rank()]
    else:
        part = x
    part = part.clone().requires_grad_()
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
    model = distributed.parallel(nn.Sequential(norm), CPU).train()
    outputs = []
    for _ in range(2):
        outputs.append(model(part))
        (outputs[-1] * weights).sum().backward()
    gradients = [distributed.world_size() * p.grad for p in norm.parameters()]
    norm.eval()
    outputs.append(norm(part))
    return {
        "common": [*gradients, *norm.buffers()],
        "parts": [part.grad, *(output.detach() for output in outputs)],
    }


def gradients_of_mask_rcnn(objects, **settings):
    """Losses and gradients of one training step on images of different sizes."""
    torch.manual_seed(0)
    network = build_mask_rcnn(MaskRCNNSettings.read(MASK_RCNN | settings), 2)
    sizes = [(40, 64), (48, 40), (64, 48), (40, 40)]
    images, targets = [], []
    for number, (size, count) in enumerate(zip(sizes, objects, strict=True)):
        images.append((numbers(3, *size, seed=number).sigmoid() * 255).to(torch.uint8))
        boxes = torch.tensor([[3, 5, 19, 27], [16, 9, 38, 33], [2, 12, 33, 38]][:count])
        masks = torch.zeros(count, *size, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        labels = torch.tensor([1, 2, 2][:count], dtype=torch.int64)
        boxes = boxes.reshape(-1, 4).double()
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    model = distributed.parallel(network, CPU).train()
    seed_step(3, 5)
    losses = model(own(images), own(targets))
    sum(losses.values()).backward()
    means = distributed.means([loss.item() for loss in losses.values()], CPU)
    gradients = [parameter.grad for parameter in network.parameters()]
    return {"common": [*means, *gradients, *network.buffers()], "parts": []}


def cases():
    """Yield the name and the results of every case."""
    for name, labelled in LABELLED.items():
        for fraction in (0.2, 0.5, 1.0):
            yield f"loss, {name}, {fraction}", loss_of_hard_pixels(labelled, fraction)
        yield f"loss, {name}, tied", loss_of_hard_pixels(labelled, 0.3, tied=True)
    yield "drawn", drawn()
    for sizes in ([4, 4], [1, 6], [5, 0], [1, 1]):
        yield f"batch normalisation, {sizes}", batch_norm(sizes)
    for name, objects in OBJECTS.items():
        yield f"Mask R-CNN (C4), {name}", gradients_of_mask_rcnn(objects)
        yield f"Mask R-CNN (FPN), {name}", gradients_of_mask_rcnn(objects, **PYRAMID)


def main(folder):
    """Compute all cases and save them."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    with distributed.process_group(CPU):
        torch.save(dict(cases()), f"{folder}/{distributed.rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
