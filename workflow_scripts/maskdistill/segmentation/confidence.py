"""From scored candidates to one label map per image."""

from collections.abc import Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.files import label_maps, masks


def confident(candidates: Sequence[Mapping], threshold: float, *, keep_best: bool) -> list[Mapping]:
    """The candidates of one image with score > τ, the most confident first.

    Equal scores are ordered by candidate_id.

    Args:
        keep_best: if there are none, keep the most confident candidate.
    """
    found = [row for row in candidates if row["candidate_id"] is not None]
    ranked = sorted(found, key=lambda row: (-row["score"], row["candidate_id"]))
    kept = [row for row in ranked if row["score"] > threshold]
    return kept or ranked[:1] if keep_best else kept


def paint(ranked: Sequence[Mapping], size: tuple[int, int], clusters: int) -> np.ndarray:
    """One label map from candidates; where they overlap, the more confident one wins.

    Args:
        ranked: result of `confident`.
        size: (height, width) of the image.

    Returns:
        H x W label map, 0 where no candidate is.
    """
    layers = (
        (masks.decode(row["rle_counts"], row["height"], row["width"]), row["cluster"])
        for row in reversed(ranked)
    )
    return label_maps.paint(size, layers, clusters)
