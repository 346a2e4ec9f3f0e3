"""Object masks of the baselines in the paper's Table 3, from the features of `extract_features`.

Both find one mask per image on the patch grid and return an `affinity.ObjectMask`.
"""

import numpy as np

from workflow_scripts.maskdistill.discovery.affinity import ObjectMask, component_of

_BLOCK = 1024  # rows of LOST's N x N matrix that are computed at a time


def dino_seg(
    keys: np.ndarray, cls_affinity: np.ndarray, grid: tuple[int, int], *, mass: float
) -> ObjectMask:
    """The patches that hold most of the attention of [CLS] (Caron et al., 2021, DINO).

    As its authors do, each head's attention to the patches is divided by its sum; then the heads
    are summed, and the patches with the least attention that together hold 1 - `mass` of it are
    left out.

    Args:
        keys: N x d; their width gives the scale of the softmax.
        cls_affinity: heads x N, q_CLS(h) · k_I(h).
        grid: (rows, columns) with rows x columns = N.
        mass: share of the attention that is inside the mask, 0..1; 0.75 in the paper.

    Returns:
        The mask; its source is the patch with most attention, its proposals are all its patches.
    """
    attention = patch_attention(cls_affinity, keys.shape[1] // len(cls_affinity)).sum(axis=0)
    order = np.argsort(attention, kind="stable")
    kept = np.cumsum(attention[order]) > (1 - mass) * attention.sum()
    kept[-1] = True  # always the patch with most attention, despite rounding
    mask = np.zeros(len(attention), dtype=bool)
    mask[order[kept]] = True
    source = divmod(int(attention.argmax()), grid[1])
    return ObjectMask(mask.reshape(grid), source, proposals=int(mask.sum()))


def patch_attention(cls_affinity: np.ndarray, head_size: int) -> np.ndarray:
    """The attention of [CLS] to the patches in each head, with sum 1; heads x N, float64.

    This is the softmax of q_CLS · k / sqrt(head size) over the patches alone. The attention of
    [CLS] to itself would only change the scale.
    """
    logits = cls_affinity.astype(np.float64) / np.sqrt(head_size)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def lost(keys: np.ndarray, grid: tuple[int, int], *, patches: int) -> ObjectMask:
    """LOST (Siméoni et al., 2021): a seed that is similar to few patches, and its expansion.

    Two patches are similar if the product of their keys is positive. The seed is the (first) patch
    with the fewest similar patches. Its expansion is those of the `patches` patches with the
    fewest similar ones that are similar to it; the mask is every patch with a positive sum of
    products with the expansion that is 4-connected to the seed.

    Args:
        keys: N x d float32, the keys of all heads, concatenated, see `affinity.prepare_keys`.
        grid: (rows, columns) with rows x columns = N.
        patches: 400 in the paper; at most N.

    Returns:
        The mask, empty if the seed does not belong to it; its source is the seed, its proposals
        are the patches of the expansion.
    """
    fewest = np.argsort(degrees(keys), kind="stable")[:patches]
    seed = int(fewest[0])
    alike = keys[fewest] @ keys[seed] > 0
    alike[0] = True  # the seed, even if its key is zero
    expansion = fewest[alike]
    mask = (keys @ keys[expansion].sum(axis=0) > 0).reshape(grid)
    return ObjectMask(component_of(mask, seed), divmod(seed, grid[1]), proposals=int(alike.sum()))


def degrees(keys: np.ndarray) -> np.ndarray:
    """The number of other patches that are similar to each; N x d float32 → N integers."""
    counts = [
        (keys[start : start + _BLOCK] @ keys.T > 0).sum(axis=1)
        for start in range(0, len(keys), _BLOCK)
    ]
    return np.concatenate(counts) - (keys != 0).any(axis=1)
