import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.discovery import patch_scores

GRID = (5, 8)


@pytest.fixture
def keys():
    keys = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    return keys - keys.mean(axis=0)


@pytest.fixture
def start():
    return np.random.default_rng(1).normal(size=40).astype(np.float32)


EVERYWHERE = np.ones(40, bool)
LEFT = np.arange(40) % 8 < 5


def test_standardized_among_free_patches(start):
    found = patch_scores.standardized(start, LEFT)
    assert found[LEFT].mean() == pytest.approx(0, abs=1e-6)
    assert found[LEFT].std() == pytest.approx(1, rel=1e-5)
    assert not found[~LEFT].any()
    assert not patch_scores.standardized(np.ones(40, np.float32), LEFT).any()


def test_border(start):
    frame = patch_scores.border(GRID, like=start).reshape(GRID)
    assert frame.dtype == np.float32
    assert frame.sum() == 2 * 8 + 2 * 3
    assert not frame[1:-1, 1:-1].any()
    for small in ((1, 4), (2, 3)):
        assert patch_scores.border(small, like=start).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("free", [EVERYWHERE, LEFT])
def test_diffusion_is_the_power_of_the_matrix(keys, start, steps, free):
    matrix = keys.astype(float) @ keys.T
    expected = start * free
    for _ in range(steps):
        expected = matrix @ (expected * free)
    found = patch_scores.diffused(keys, start * free, free, steps=steps)
    np.testing.assert_allclose(
        found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-5
    )


def test_one_step_from_voters_is_the_sum_of_eq_2(keys):
    voters = np.array([3, 4, 17])
    start = np.isin(np.arange(40), voters).astype(np.float32)
    found = patch_scores.diffused(keys, start, EVERYWHERE, steps=1)
    expected = keys @ keys[voters].sum(axis=0)
    np.testing.assert_array_equal(found > 0, expected > 0)


def test_many_steps_give_the_principal_component(keys, start):
    keys[:, 0] *= 4
    component = keys @ np.linalg.svd(keys, full_matrices=False)[2][0]
    found = patch_scores.diffused(keys, start, EVERYWHERE, steps=60)
    correlation = np.corrcoef(found, component)[0, 1]
    assert abs(correlation) == pytest.approx(1, abs=1e-4)
    assert (correlation > 0) == (start @ component > 0)


def test_the_discriminant_is_fishers(keys, start):
    """Compare with the definition, computed patch by patch in float64."""
    found = patch_scores.discriminant(keys, start, EVERYWHERE, cut=0.2)
    high = start > 0.2 * np.sqrt((start.astype(float) ** 2).mean())
    exact = keys.astype(float)
    groups = [exact[high], exact[~high]]
    within = sum(
        np.outer(key - group.mean(axis=0), key - group.mean(axis=0))
        for group in groups
        for key in group
    )
    covariance = within / 40 + exact.var() * np.eye(12)
    weights = np.linalg.inv(covariance) @ (groups[0].mean(axis=0) - groups[1].mean(axis=0))
    middle = (groups[0].mean(axis=0) + groups[1].mean(axis=0)) / 2
    expected = (exact - middle) @ weights
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_discriminant_ignores_a_direction_in_which_both_groups_vary():
    """Scores with a share of a noisy direction are corrected by the direction that separates."""
    rng = np.random.default_rng(0)
    inside = np.arange(400) < 150
    noise = rng.normal(size=400)
    keys = np.stack([np.where(inside, 1.0, -1.0) + 0.1 * rng.normal(size=400), noise], axis=1)
    keys = (keys - keys.mean(axis=0)).astype(np.float32)
    scores = (keys[:, 0] + 0.5 * keys[:, 1]).astype(np.float32)
    everywhere = np.ones(400, bool)
    found = patch_scores.discriminant(keys, scores, everywhere, cut=0)
    assert ((scores > 0) == inside).mean() < 0.96
    assert ((found > 0) == inside).mean() > 0.98


def test_the_discriminant_of_one_group_is_the_scores(keys):
    scores = np.ones(40, np.float32)
    assert patch_scores.discriminant(keys, scores, EVERYWHERE, cut=0) is scores


def test_separation():
    inside = np.zeros(GRID, bool)
    inside[1:3, 2:5] = True
    keys = np.where(inside.ravel()[:, None], [1.0, 2.0], [3.0, -1.0]).astype(np.float16)
    assert patch_scores.separation(keys, inside) == pytest.approx(1)
    assert patch_scores.separation(keys, ~inside) == pytest.approx(1)
    for whole in (np.ones(GRID, bool), np.zeros(GRID, bool)):
        assert patch_scores.separation(keys, whole) == 0
    assert patch_scores.separation(np.ones((40, 2), np.float16), inside) == 0
    # With noise: the share of the variance between the two groups, computed by its definition.
    noisy = keys + np.random.default_rng(0).normal(size=keys.shape).astype(np.float16)
    total = ((noisy - noisy.mean(axis=0)) ** 2).sum()
    means = np.where(
        inside.ravel()[:, None], noisy[inside.ravel()].mean(0), noisy[~inside.ravel()].mean(0)
    )
    between = ((means - noisy.mean(axis=0)) ** 2).sum()
    assert patch_scores.separation(noisy, inside) == pytest.approx(between / total, rel=1e-2)


def test_tensors_have_the_scores_of_arrays(keys, start):
    tensors = [torch.from_numpy(value) for value in (keys, start, LEFT)]
    frame = patch_scores.border(GRID, like=tensors[1])
    np.testing.assert_array_equal(frame.numpy(), patch_scores.border(GRID, like=start))
    for call in (
        lambda _, start, free: patch_scores.standardized(start, free),
        lambda keys, start, free: patch_scores.diffused(keys, start, free, steps=2),
        lambda keys, start, free: patch_scores.discriminant(keys, start, free, cut=0.1),
    ):
        expected = call(keys, start, LEFT)
        np.testing.assert_allclose(call(*tensors).numpy(), expected, rtol=1e-3, atol=1e-4)
    mask = LEFT.reshape(GRID)
    expected = patch_scores.separation(keys, mask)
    assert patch_scores.separation(tensors[0], mask) == pytest.approx(expected, rel=1e-4)
