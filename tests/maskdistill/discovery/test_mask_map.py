import numpy as np
import pytest

from workflow_scripts.maskdistill.discovery import mask_map


def test_masks_of_one_kind_lie_together():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 40)
    points = (np.eye(3, 16)[group] + 0.05 * rng.normal(size=(120, 16))).astype(np.float32)
    places = mask_map.positions(points, metric="cosine", seed=0)
    assert places.dtype == np.float32
    np.testing.assert_allclose([places.min(axis=0), places.max(axis=0)], [[0, 0], [1, 1]])
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()
    again = mask_map.positions(points, metric="cosine", seed=0)
    np.testing.assert_array_equal(places, again)


def test_the_length_of_an_embedding_does_not_matter_for_cosine():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 8)).astype(np.float32)
    # Scaling by powers of two is exact in floating point.
    scaled = points * 2.0 ** rng.integers(0, 3, (30, 1)).astype(np.float32)
    places = [mask_map.positions(one, metric="cosine", seed=0) for one in (points, scaled)]
    np.testing.assert_array_equal(*places)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_embeddings_have_places_too(metric):
    places = mask_map.positions(np.ones((8, 4), np.float32), metric=metric, seed=0)
    assert places.shape == (8, 2)
    assert np.isfinite(places).all()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_few_masks_have_places_too(count):
    points = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    places = mask_map.positions(points, metric="euclidean", seed=0)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_of_many_masks_a_sample_is_on_the_map():
    assert mask_map.chosen(5, 0).tolist() == [0, 1, 2, 3, 4]
    chosen = mask_map.chosen(mask_map.POINTS + 5, 0)
    assert len(chosen) == mask_map.POINTS
    assert (np.diff(chosen) > 0).all()
