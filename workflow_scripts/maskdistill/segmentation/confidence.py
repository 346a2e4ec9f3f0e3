"""Selection of the confident mask candidates, and one label map per image from them."""

from collections.abc import Mapping, Sequence

import numpy as np

from workflow_scripts.maskdistill.files import label_maps, masks


def confident(
    candidates: Sequence[Mapping], threshold: float, *, keep_best: bool, overlap: float = 1
) -> list[Mapping]:
    """The candidates of one image with score > τ, the most confident first.

    Equal scores are ordered by candidate_id.

    Args:
        keep_best: if no score is above τ, keep the most confident candidate.
        overlap: see `without_overlaps`; with 1, as in the paper, no candidate is left out.
    """
    found = [row for row in candidates if row["candidate_id"] is not None]
    ranked = sorted(found, key=lambda row: (-row["score"], row["candidate_id"]))
    kept = [row for row in ranked if row["score"] > threshold]
    return without_overlaps(kept or ranked[:1] if keep_best else kept, overlap)


def without_overlaps(ranked: Sequence[Mapping], overlap: float) -> list[Mapping]:
    """Non-maximum suppression across clusters, so that one object is not kept as two classes.

    A candidate is left out if its mask has an IoU above `overlap` with the mask of a more confident
    candidate that is kept and belongs to another cluster. Candidates of the same cluster are not
    compared here, because Mask R-CNN has already suppressed duplicates among them by their boxes.

    Args:
        ranked: candidates of one image, the most confident first.
        overlap: 0..1; with 1, all candidates are kept.
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
    """One label map from candidates; where they overlap, the most confident one is painted.

    Args:
        ranked: result of `confident`.
        size: (height, width) of the image.

    Returns:
        H x W label map, 0 (background) at pixels outside all candidates.
    """
    layers = (
        (masks.decode(row["rle_counts"], row["height"], row["width"]), row["cluster"])
        for row in reversed(ranked)
    )
    return label_maps.paint(size, layers, clusters)
