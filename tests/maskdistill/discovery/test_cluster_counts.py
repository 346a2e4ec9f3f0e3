import numpy as np
import pytest

from workflow_scripts.maskdistill.discovery import cluster_counts
from workflow_scripts.maskdistill.discovery.cluster_counts import ClusterCount
from workflow_scripts.maskdistill.errors import InputError


def groups(number, size=40, spread=0.2, width=32):
    """Points around `number` random centres."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(number, width)), size, axis=0)
    return (centres + spread * rng.normal(size=centres.shape)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_true_number_of_groups_is_suggested_first(metric):
    found = cluster_counts.compare(groups(6), [2, 3, 4, 6, 8, 12], metric=metric, seed=0)
    assert [one.clusters for one in found] == [2, 3, 4, 6, 8, 12]
    assert cluster_counts.suggest(found)[0] == 6
    six = found[3]
    assert six.silhouette > 0.7
    assert six.stability > 0.9
    assert six.smallest <= six.median <= six.largest


def test_runs_that_find_the_same_groups_are_perfectly_stable():
    (two,) = cluster_counts.compare(groups(2), [2], metric="euclidean", seed=0)
    assert two.stability == 1
    assert (two.smallest, two.median, two.largest) == (40, 40, 40)


def test_the_same_seed_gives_the_same_numbers():
    runs = [cluster_counts.compare(groups(4), [3, 4], metric="cosine", seed=1) for _ in range(2)]
    assert runs[0] == runs[1]


def test_numbers_too_large_for_the_masks_are_left_out():
    found = cluster_counts.compare(groups(2, 10), [1, 2, 2, 15, 16], metric="cosine", seed=0)
    assert [one.clusters for one in found] == [2, 15]
    with pytest.raises(InputError, match="3 masks are too few"):
        cluster_counts.compare(groups(3, 1), [2, 3], metric="cosine", seed=0)


def of_scores(*scores):
    return [ClusterCount(k, score, 1.0, 1, 2, 3) for k, score in enumerate(scores, start=2)]


@pytest.mark.parametrize(
    ("scores", "suggested"),
    [
        ((0.9, 0.3, 0.5, 0.4, 0.6, 0.1), [6, 4]),  # local maxima, the best first
        ((0.1, 0.2, 0.3), [4]),  # the largest number may be a local maximum
        ((0.9, 0.5, 0.1), [2]),  # the smallest number only if there is no other local maximum
        ((-0.1, -0.2), [2]),
        ((0.1, 0.5, 0.5, 0.1), [3]),  # of neighbours with equal scores, the smaller number
    ],
)
def test_peaks_of_the_score_are_suggested(scores, suggested):
    assert cluster_counts.suggest(of_scores(*scores)) == suggested


def test_standardized_points_have_unit_deviation():
    points = groups(3) * np.geomspace(1, 100, 32, dtype=np.float32)
    prepared = cluster_counts.prepare(points, standardize=True)
    np.testing.assert_allclose(prepared.std(axis=0), 1, rtol=1e-4)
    assert cluster_counts.prepare(points, standardize=False) is points
