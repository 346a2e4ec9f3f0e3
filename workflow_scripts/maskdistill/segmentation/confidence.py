"""From scored candidates to one label map per image."""

from collections.abc import Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.files import label_maps, masks


def confident(
    candidates: Sequence[Mapping], threshold: float, *, keep_best: bool, overlap: float = 1
) -> list[Mapping]:
    """The candidates of one image with score > τ, the most confident first.

    Equal scores are ordered by candidate_id.

    Args:
        keep_best: if there are none, keep the most confident candidate.
        overlap: see `without_overlaps`; with 1, as in the paper, all of them stay.
    """
    found = [row for row in candidates if row["candidate_id"] is not None]
    ranked = sorted(found, key=lambda row: (-row["score"], row["candidate_id"]))
    kept = [row for row in ranked if row["score"] > threshold]
    return without_overlaps(kept or ranked[:1] if keep_best else kept, overlap)


def without_overlaps(ranked: Sequence[Mapping], overlap: float) -> list[Mapping]:
    """Non-maximum suppression across clusters: one object is not kept as two classes.

    A candidate is left out if its mask has an IoU above `overlap` with that of a more confident
    candidate of another cluster, unless that one is itself left out. Candidates of one cluster are
    not compared; Mask R-CNN has done so by their boxes.

    Args:
        ranked: candidates of one image, the most confident first.
        overlap: 0..1; with 1, all of them stay.
    """
    if overlap >= 1 or len(ranked) < 2:
        return list(ranked)
    clusters = np.array([row["cluster"] for row in ranked])
    in_conflict = (masks.iou(ranked, ranked) > overlap) & (clusters[:, None] != clusters)
    kept: list[int] = []
    for number in range(len(ranked)):
        if not in_conflict[number, kept].any():
            kept.append(number)
    return [ranked[number] for number in kept]


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
