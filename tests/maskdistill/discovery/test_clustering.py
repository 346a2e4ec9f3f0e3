import faiss
import numpy as np
import pytest

from workflow_scripts.maskdistill.discovery import clustering
from workflow_scripts.maskdistill.errors import InputError

OPTIONS = {"iterations": 30, "redo": 3, "seed": 0}
SIZES = (80, 50, 30, 20)


def planted(metric, seed=0):
    """Shuffled points in four distant groups of falling size; for cosine, of random lengths."""
    rng = np.random.default_rng(seed)
    centres = 10 * np.linalg.qr(rng.normal(size=(12, 12)))[0][:4]
    truth = rng.permutation(np.repeat(np.arange(4), SIZES))
    points = centres[truth] + rng.normal(scale=0.5, size=(len(truth), 12))
    if metric == "cosine":
        points *= rng.uniform(0.1, 10, size=(len(truth), 1))
    return points.astype(np.float32), truth


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_planted_clusters_are_found_and_ordered_by_size(metric):
    points, truth = planted(metric)
    before = points.copy()
    centroids = clustering.fit(points, clusters=4, metric=metric, **OPTIONS)
    assert (centroids.shape, centroids.dtype) == ((4, 12), np.float32)
    clusters, distances = clustering.assign(points, centroids, metric=metric)
    np.testing.assert_array_equal(clusters, truth + 1)
    assert (clusters.dtype, distances.dtype) == (np.int32, np.float32)
    assert np.bincount(clusters)[1:].tolist() == list(SIZES)
    np.testing.assert_array_equal(points, before)
    if metric == "euclidean":
        means = [points[truth == group].mean(axis=0) for group in range(4)]
        np.testing.assert_allclose(centroids, means, atol=1e-4)
    else:
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_assignment_against_numpy(metric):
    rng = np.random.default_rng(1)
    points, centroids = rng.normal(size=(200, 7)), rng.normal(size=(9, 7))
    clusters, distances = clustering.assign(
        points.astype(np.float32), centroids.astype(np.float32), metric=metric
    )
    if metric == "cosine":
        unit, unit_centroids = (x / np.linalg.norm(x, axis=1)[:, None] for x in (points, centroids))
        expected = 1 - unit @ unit_centroids.T
    else:
        expected = np.linalg.norm(points[:, None] - centroids[None], axis=2)
    np.testing.assert_array_equal(clusters, expected.argmin(axis=1) + 1)
    np.testing.assert_allclose(distances, expected.min(axis=1), atol=1e-5)


def test_a_point_on_a_centroid_is_at_no_distance():
    points = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    for metric in ("cosine", "euclidean"):
        clusters, distances = clustering.assign(points, points, metric=metric)
        assert clusters.tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(distances, 0, atol=2e-3)
        assert (distances >= 0).all()


def test_nothing_to_assign():
    clusters, distances = clustering.assign(
        np.empty((0, 7), np.float32), np.ones((2, 7), np.float32), metric="cosine"
    )
    assert (clusters.shape, clusters.dtype) == ((0,), np.int32)
    assert (distances.shape, distances.dtype) == ((0,), np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_same_seed_gives_the_same_centroids_on_any_number_of_threads(metric):
    # Points without structure, so that another random start would give other centroids.
    points = np.random.default_rng(0).normal(size=(600, 16)).astype(np.float32)

    def fit(threads, seed):
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(threads)
        try:
            options = {**OPTIONS, "seed": seed}
            return clustering.fit(points, clusters=10, metric=metric, **options)
        finally:
            faiss.omp_set_num_threads(before)

    one = fit(1, seed=3)
    np.testing.assert_array_equal(fit(1, seed=3), one)
    np.testing.assert_allclose(fit(2, seed=3), one, atol=1e-5)
    assert not np.allclose(fit(1, seed=4), one, atol=1e-2)


def test_a_sample_is_a_part_without_repetition():
    assert clustering.sample(60, 60, seed=0) is None
    chosen = clustering.sample(150, 60, seed=0)
    assert len(set(chosen.tolist())) == 60
    assert (np.diff(chosen) > 0).all()
    assert set(chosen.tolist()) <= set(range(150))
    np.testing.assert_array_equal(clustering.sample(150, 60, seed=0), chosen)
    assert (clustering.sample(150, 60, seed=1) != chosen).any()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_of_many_points_all_count_in_the_end(metric, monkeypatch):
    points, truth = planted(metric)
    monkeypatch.setattr(clustering, "START_POINTS", 15)
    centroids = clustering.fit(points, clusters=4, metric=metric, **OPTIONS | {"redo": 20})
    clusters, _ = clustering.assign(points, centroids, metric=metric)
    np.testing.assert_array_equal(clusters, truth + 1)
    unit = points / np.linalg.norm(points, axis=1)[:, None] if metric == "cosine" else points
    means = np.stack([unit[truth == group].mean(axis=0) for group in range(4)])
    if metric == "cosine":
        means /= np.linalg.norm(means, axis=1)[:, None]
    np.testing.assert_allclose(centroids, means, atol=1e-4)


def test_as_many_clusters_as_points():
    points = np.eye(5, dtype=np.float32)
    centroids = clustering.fit(points, clusters=5, metric="euclidean", **OPTIONS)
    clusters, _ = clustering.assign(points, centroids, metric="euclidean")
    assert sorted(clusters.tolist()) == [1, 2, 3, 4, 5]


def test_bad_input():
    with pytest.raises(InputError, match=r"no mask can be used; .* set masks\.center_keys: auto"):
        clustering.fit(np.empty((0, 4), np.float32), clusters=2, metric="cosine", **OPTIONS)
    with pytest.raises(InputError, match="3 masks cannot form 4 clusters; lower clustering"):
        clustering.fit(np.ones((3, 2), np.float32), clusters=4, metric="cosine", **OPTIONS)
    points = np.ones((9, 2), np.float32)
    points[3, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        clustering.fit(points, clusters=2, metric="cosine", **OPTIONS)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_margins_against_numpy(metric):
    rng = np.random.default_rng(2)
    points, centroids = (rng.normal(size=(n, 7)).astype(np.float32) for n in (100, 5))
    if metric == "cosine":
        unit, unit_centroids = (x / np.linalg.norm(x, axis=1)[:, None] for x in (points, centroids))
        distances = np.sort(1 - unit @ unit_centroids.T, axis=1)
    else:
        distances = np.sort(np.linalg.norm(points[:, None] - centroids[None], axis=2), axis=1)
    found = clustering.margins(points, centroids, metric=metric)
    np.testing.assert_allclose(found, distances[:, 1] - distances[:, 0], atol=1e-4)
