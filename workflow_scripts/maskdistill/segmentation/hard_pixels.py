"""Cross-entropy over the hardest pixels of a batch (paper, Section 3.4)."""

import torch
from torch.nn import functional as F

from workflow_scripts.maskdistill.torch_tools import distributed

IGNORE_INDEX = -1  # pixels without a label in tensors; for PNG files see `label_maps.IGNORE`


def hard_pixel_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    hardest_fraction: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean cross-entropy over the pixels of the global batch with the largest loss.

    At most pixels the network soon agrees with the pseudo-labels. The pixels with the largest
    loss, at outlines and small objects, are those that the network still has to learn. If several
    pixels have exactly the same loss, the first in the batch are taken.

    Args:
        logits: B x classes x H x W, for this process's part of the global batch.
        labels: B x H x W, int64; `IGNORE_INDEX` at pixels without a label.
        hardest_fraction: share of the labelled pixels to take, above 0 and at most 1.
        label_smoothing: share of a label's probability that is spread evenly over all classes.

    Returns:
        Scalar. Its mean over the processes is the loss of the global batch. It is 0, with zero
        gradients, if none of this process's pixels is among the hardest.

    Raises:
        ValueError: `hardest_fraction` is out of range.
    """
    if not 0 < hardest_fraction <= 1:
        raise ValueError(f"hardest fraction {hardest_fraction}: must be above 0 and at most 1")
    losses = F.cross_entropy(
        logits.float(),
        labels,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=label_smoothing,
    )
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
    # This comparison counts NaN as large: a NaN among the losses makes the mean NaN, and the
    # training ends with an error.
    above = (~(everywhere <= threshold)).nonzero()[:, 0]
    equal = (everywhere == threshold).nonzero()[: max(0, count - len(above)), 0]
    chosen = torch.cat([above, equal]) - sum(map(len, parts[: distributed.rank()]))
    return chosen[(chosen >= 0) & (chosen < len(losses))]
