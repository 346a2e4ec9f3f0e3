"""Cross-entropy over the hardest pixels of a batch (paper, Section 3.4)."""

import torch
from torch.nn import functional as F

IGNORE_INDEX = -1  # in tensors of labels; in PNG files see `label_maps`


def hard_pixel_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, hardest_fraction: float
) -> torch.Tensor:
    """Mean cross-entropy over the pixels of the batch with the largest loss.

    Pseudo labels agree with what the network already believes on most pixels; those with the
    largest loss, on outlines and small objects, are what is left to learn. Under several processes
    each takes this fraction of its own part of the batch.

    Args:
        logits: B x classes x H x W.
        labels: B x H x W, int64; `IGNORE_INDEX` where no label is known.
        hardest_fraction: of the pixels with a label, above 0 up to 1; 1 takes all of them.

    Returns:
        Scalar; 0 (with zero gradients) where no pixel has a label.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 < hardest_fraction <= 1:
        raise ValueError(f"hardest fraction {hardest_fraction}: must be above 0 and at most 1")
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")
    losses = losses[labels != IGNORE_INDEX]
    if losses.numel() == 0:
        return logits.sum() * 0.0
    if hardest_fraction < 1:
        count = max(1, round(hardest_fraction * losses.numel()))
        losses = losses.topk(count, sorted=False).values
    return losses.mean()
