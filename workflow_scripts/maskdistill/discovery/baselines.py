"""Object masks of the baselines in the paper's Table 3, from the features of `extract_features`.

Each of the two methods finds one mask per image on the patch grid, as an `affinity.ObjectMask`.
"""

import numpy as np

from workflow_scripts.maskdistill.discovery.affinity import ObjectMask, component_of

_BLOCK = 1024  # rows of LOST's N x N matrix that are computed at a time


def dino_seg(
    keys: np.ndarray, cls_affinity: np.ndarray, grid: tuple[int, int], *, mass: float
) -> ObjectMask:
    """The patches that get most of the attention of [CLS] (Caron et al., 2021, DINO).

    The attention of each head to the patches is divided by its sum, as in DINO's code, and then the
    heads are added up. The patches with the least attention, which together get 1 - `mass` of it,
    are left out.

    Args:
        keys: N x d; only d is used, for the scale 1 / sqrt(d / heads) of the softmax.
        cls_affinity: heads x N, q_CLS(h) · k_I(h).
        grid: (rows, columns) with rows x columns = N.
        mass: share of the attention that is inside the mask, 0..1; 0.75 in the paper.

    Returns:
        The mask. Its source is the patch with the most attention; its number of proposals is the
        number of its patches.
    """
    attention = patch_attention(cls_affinity, keys.shape[1] // len(cls_affinity)).sum(axis=0)
    order = np.argsort(attention, kind="stable")
    kept = np.cumsum(attention[order]) > (1 - mass) * attention.sum()
    kept[-1] = True  # the patch with the most attention is always kept, despite rounding
    mask = np.zeros(len(attention), dtype=bool)
    mask[order[kept]] = True
    source = divmod(int(attention.argmax()), grid[1])
    return ObjectMask(mask.reshape(grid), source, proposals=int(mask.sum()))


def patch_attention(cls_affinity: np.ndarray, head_size: int) -> np.ndarray:
    """The attention of [CLS] to the patches, which sums to 1 in each head; heads x N, float64.

    This is the softmax of q_CLS · k / sqrt(head size) over the patches alone. The attention of
    [CLS] to itself is left out, because it would only change the scale.
    """
    logits = cls_affinity.astype(np.float64) / np.sqrt(head_size)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def lost(keys: np.ndarray, grid: tuple[int, int], *, patches: int) -> ObjectMask:
    """LOST (Siméoni et al., 2021): grow a mask from the patch that is similar to the fewest others.

    Two patches are similar if the product of their keys is positive; the degree of a patch is the
    number of patches similar to it. The seed is the (first) patch with the lowest degree. Of the
    `patches` patches with the lowest degrees, those similar to the seed are its expansion. A patch
    is inside the mask if the sum of its products with the expansion is positive and it is
    4-connected to the seed.

    Args:
        keys: N x d float32, the keys of all heads, concatenated, see `affinity.prepare_keys`.
        grid: (rows, columns) with rows x columns = N.
        patches: number of patches among which the expansion is searched; 400 in LOST's paper. If
            it is above N, all patches are taken.

    Returns:
        The mask, which is empty if the seed's own sum is not positive. Its source is the seed; its
        number of proposals is the number of patches in the expansion.
    """
    fewest = np.argsort(degrees(keys), kind="stable")[:patches]
    seed = int(fewest[0])
    alike = keys[fewest] @ keys[seed] > 0
    alike[0] = True  # the seed, even if its key is zero
    expansion = fewest[alike]
    mask = (keys @ keys[expansion].sum(axis=0) > 0).reshape(grid)
    return ObjectMask(component_of(mask, seed), divmod(seed, grid[1]), proposals=int(alike.sum()))


def degrees(keys: np.ndarray) -> np.ndarray:
    """For each patch, the number of other patches similar to it; N x d float32 → N integers."""
    counts = [
        (keys[start : start + _BLOCK] @ keys.T > 0).sum(axis=1)
        for start in range(0, len(keys), _BLOCK)
    ]
    return np.concatenate(counts) - (keys != 0).any(axis=1)
