"""The baselines, compared with plain implementations that treat one patch after the other."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from workflow_scripts.maskdistill.discovery import baselines
from workflow_scripts.maskdistill.discovery.affinity import prepare_keys

GRID = (5, 6)


def random_features(seed, grid=GRID, heads=3, head_size=4):
    rng = np.random.default_rng(seed)
    patches = grid[0] * grid[1]
    keys = rng.normal(size=(patches, heads * head_size)).astype(np.float16)
    return keys, rng.normal(scale=3, size=(heads, patches)).astype(np.float32)


def plain_dino_seg(cls_affinity, head_size, mass):
    """Leave out the patches with the least attention, as long as these have at most 1 - `mass`."""
    totals = [0.0] * cls_affinity.shape[1]
    for head in cls_affinity.astype(float):
        weights = [math.exp(value / math.sqrt(head_size)) for value in head]
        for patch, weight in enumerate(weights):
            totals[patch] += weight / sum(weights)
    left_out, lost_mass = set(), 0.0
    for patch in sorted(range(len(totals)), key=lambda p: totals[p]):
        lost_mass += totals[patch]
        if lost_mass > (1 - mass) * sum(totals):
            break
        left_out.add(patch)
    return set(range(len(totals))) - left_out


def plain_lost(keys, grid, patches):
    """LOST: the seed, the size of its expansion, and the mask, grown from the seed step by step."""
    keys = keys.astype(np.float32)

    def product(i, j):
        return float(np.dot(keys[i].astype(np.float64), keys[j].astype(np.float64)))

    numbers = range(len(keys))
    degree = [sum(product(i, j) > 0 for j in numbers if j != i) for i in numbers]
    ranked = sorted(numbers, key=lambda i: degree[i])
    seed = ranked[0]
    expansion = [i for i in ranked[:patches] if product(i, seed) > 0]
    mask = {j for j in numbers if sum(product(i, j) for i in expansion) > 0}
    reached, waiting = set(), [seed] if seed in mask else []
    while waiting:
        patch = waiting.pop()
        reached.add(patch)
        row, column = divmod(patch, grid[1])
        for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            neighbour = y * grid[1] + x
            inside = 0 <= y < grid[0] and 0 <= x < grid[1]
            if inside and neighbour in mask and neighbour not in reached:
                waiting.append(neighbour)
    return seed, len(expansion), reached


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mass", [0.3, 0.75, 0.99])
def test_dino_seg_is_its_plain_form(seed, mass):
    keys, cls_affinity = random_features(seed)
    found = baselines.dino_seg(keys, cls_affinity, GRID, mass=mass)
    assert set(np.flatnonzero(found.grid)) == plain_dino_seg(cls_affinity, 4, mass)
    assert found.proposals == found.grid.sum()
    assert found.grid[found.source]


def test_dino_seg_keeps_three_quarters_of_the_attention():
    # The patches have these shares of the attention. At most 0.25 of it may be left out: only 0.1.
    cls_affinity = 2 * np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))  # softmax divides by √4 = 2
    found = baselines.dino_seg(np.zeros((4, 4), np.float16), cls_affinity, (2, 2), mass=0.75)
    assert found.grid.tolist() == [[True, True], [True, False]]
    assert found.source == (0, 0)


@pytest.mark.parametrize("to_itself", [-8.0, 0.0, 30.0])
def test_attention_is_the_patches_part_of_the_softmax_with_cls(to_itself):
    """DINO's softmax includes [CLS]; dividing by the sum over patches gives the same."""
    keys, cls_affinity = random_features(7, heads=2, head_size=9)
    logits = np.concatenate([np.full((2, 1), to_itself), cls_affinity], axis=1) / 3
    patches = softmax(logits.astype(np.float64), axis=1)[:, 1:]
    assert patches.sum() < 2
    expected = patches / patches.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(baselines.patch_attention(cls_affinity, 9), expected)
    for head in range(2):
        ranked = np.argsort(expected[head])
        kept = ranked[np.cumsum(expected[head][ranked]) > 0.25]
        found = baselines.dino_seg(keys[:, :9], cls_affinity[head : head + 1], GRID, mass=0.75)
        assert set(np.flatnonzero(found.grid)) == set(kept)


def test_dino_seg_sums_the_heads():
    """The first head attends to one patch, the second to another, the third to all equally."""
    cls_affinity = np.zeros((3, 8), np.float32)
    cls_affinity[0, 1], cls_affinity[1, 6] = 40, 30
    found = baselines.dino_seg(np.zeros((8, 3), np.float16), cls_affinity, (2, 4), mass=0.6)
    assert found.grid.ravel()[[1, 6]].all()
    assert set(np.flatnonzero(baselines.patch_attention(cls_affinity, 1)[0] > 0.5)) == {1}


@pytest.mark.parametrize("mass", [0.0, 1.0])
def test_dino_seg_of_the_extremes(mass):
    keys, cls_affinity = random_features(1)
    found = baselines.dino_seg(keys, cls_affinity, GRID, mass=mass)
    assert found.grid.sum() == (1 if mass == 0 else 30)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("patches", [1, 7, 400])
def test_lost_is_its_plain_form(seed, patches):
    keys, _ = random_features(seed)
    found = baselines.lost(keys, GRID, patches=patches)
    source, proposals, mask = plain_lost(keys, GRID, patches)
    assert found.source == divmod(source, GRID[1])
    assert found.proposals == proposals
    assert set(np.flatnonzero(found.grid)) == mask


def test_lost_finds_the_smaller_of_two_groups():
    """The object is a block; a second block with the same keys is not connected to it."""
    inside = np.zeros((6, 8), bool)
    inside[1:3, 1:4] = True
    apart = np.zeros_like(inside)
    apart[4:6, 6:8] = True
    keys = np.where((inside | apart).ravel()[:, None], [1.0, 0.2], [-1.0, 0.1]).astype(np.float16)
    found = baselines.lost(keys, (6, 8), patches=400)
    np.testing.assert_array_equal(found.grid, inside)
    assert found.source == (1, 1)
    assert found.proposals == 10


@pytest.mark.parametrize("center", [True, "auto"])
def test_lost_with_a_large_common_part_needs_centred_keys(center):
    inside = np.zeros((6, 8), bool)
    inside[2:5, 3:6] = True
    keys = np.where(inside.ravel()[:, None], [5.0, 1.0], [5.0, -1.0]).astype(np.float16)
    assert baselines.lost(keys, (6, 8), patches=20).grid.all()
    found = baselines.lost(prepare_keys(keys, center), (6, 8), patches=20)
    np.testing.assert_array_equal(found.grid, inside)


def test_lost_of_keys_without_length_is_an_empty_mask():
    found = baselines.lost(np.zeros((6, 4), np.float16), (2, 3), patches=3)
    assert not found.grid.any()
    assert found.proposals == 1


def test_degrees_of_many_patches_are_counted_in_blocks(monkeypatch):
    keys = random_features(3)[0].astype(np.float32)
    whole = baselines.degrees(keys)
    monkeypatch.setattr(baselines, "_BLOCK", 7)
    np.testing.assert_array_equal(baselines.degrees(keys), whole)
