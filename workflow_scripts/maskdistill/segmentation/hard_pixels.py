"""Cross-entropy over the hardest pixels of a batch (paper, Section 3.4)."""

import torch
from torch.nn import functional as F

from workflow_scripts.maskdistill.torch_tools import distributed

IGNORE_INDEX = -1  # in tensors of labels; PNG files have another value, see `label_maps`


def hard_pixel_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, hardest_fraction: float
) -> torch.Tensor:
    """Mean cross-entropy over the pixels of the global batch with the largest loss.

    On most pixels the network soon agrees with the pseudo-labels; the pixels with the largest
    loss, on outlines and small objects, are what remains to be learned. Of pixels with exactly the
    same loss, the first in the batch are taken.

    Args:
        logits: B x classes x H x W, of this process's part of the batch.
        labels: B x H x W, int64; `IGNORE_INDEX` where no label is known.
        hardest_fraction: share of the labelled pixels to take, above 0 and at most 1.

    Returns:
        Scalar, whose mean over the processes is the loss of the global batch; 0 (with zero
        gradients) if no pixel of this part is taken.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 < hardest_fraction <= 1:
        raise ValueError(f"hardest fraction {hardest_fraction}: must be above 0 and at most 1")
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")
    losses = losses[labels != IGNORE_INDEX]
    if hardest_fraction < 1:
        losses = losses[_chosen(losses.detach(), hardest_fraction)]
    (count,) = distributed.mean_counts([len(losses)], losses.device)
    return losses.sum() / count


def _chosen(losses: torch.Tensor, fraction: float) -> torch.Tensor:
    """Indices of this process's losses that are among the largest of the global batch."""
    parts = distributed.gather(losses)
    everywhere = torch.cat(parts)
    if not len(everywhere):
        return everywhere.long()
    count = max(1, round(fraction * len(everywhere)))
    threshold = everywhere.topk(count, sorted=False).values.min()
    # NaN counts as large, so that the training ends with an error.
    above = (~(everywhere <= threshold)).nonzero()[:, 0]
    equal = (everywhere == threshold).nonzero()[: max(0, count - len(above)), 0]
    chosen = torch.cat([above, equal]) - sum(map(len, parts[: distributed.rank()]))
    return chosen[(chosen >= 0) & (chosen < len(losses))]
