import itertools

import numpy as np
import pytest

from workflow_scripts.maskdistill import matching, metrics


def random_counts(classes, clusters, seed):
    return np.random.default_rng(seed).integers(0, 100, (classes + 1, clusters + 1))


def best_by_brute_force(counts):
    """Greatest sum of foreground IoU over all one-to-one matchings, pair by pair."""
    classes, clusters = counts.shape[0] - 1, counts.shape[1] - 1
    best = -1.0
    for chosen in itertools.permutations(range(1, classes + 1), clusters):
        total = 0.0
        for cluster, class_id in enumerate(chosen, start=1):
            common = counts[class_id, cluster]
            total += common / (counts[class_id].sum() + counts[:, cluster].sum() - common)
        best = max(best, total)
    return best


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("clusters", [2, 3, 4])
def test_hungarian_is_the_best_of_all_one_to_one_matchings(clusters, seed):
    counts = random_counts(4, clusters, seed)
    mapping, method = matching.match(counts)
    assert method == "hungarian"
    assert mapping[0] == 0
    assert 0 not in mapping[1:]
    assert len(set(mapping)) == clusters + 1
    iou = metrics.iou_table(counts)
    found = sum(iou[mapping[cluster], cluster] for cluster in range(1, clusters + 1))
    assert found == pytest.approx(best_by_brute_force(counts))


@pytest.mark.parametrize("seed", range(5))
def test_a_perfect_prediction_under_other_names_scores_1(seed):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 7, (50, 60)).astype(np.uint8)
    renamed = np.concatenate([[0], 1 + rng.permutation(6)]).astype(np.uint8)
    matrix = metrics.ConfusionMatrix(6, 6)
    matrix.add(renamed[target], target)
    mapping, _ = matching.match(matrix.counts)
    np.testing.assert_array_equal(mapping[renamed], np.arange(7))
    scores = metrics.scores(matrix.counts, mapping)
    assert scores.miou == scores.pixel_accuracy == 1.0


def test_a_pair_without_a_common_pixel_is_no_match():
    # Cluster 2 lies on background only; class 2 does not occur at all.
    counts = np.array([[50, 0, 5], [0, 10, 0], [0, 0, 0]])
    mapping, _ = matching.match(counts)
    assert mapping.tolist() == [0, 1, metrics.UNMATCHED]
    assert np.isnan(metrics.scores(counts, mapping).iou[2])


def test_more_clusters_than_classes_go_by_majority():
    counts = np.array(
        [
            [90, 1, 8, 0, 0],  # background
            [0, 9, 2, 3, 0],
            [0, 0, 1, 4, 0],
        ]
    )
    mapping, method = matching.match(counts)
    assert method == "majority"
    assert mapping.tolist() == [0, 1, 0, 2, metrics.UNMATCHED]


def test_majority_is_the_best_many_to_one_matching_for_pixel_accuracy():
    counts = random_counts(2, 5, 3)
    counts[0, 0] = counts[:, 0].max() + 1
    best = max(
        metrics.scores(counts, np.array([0, *chosen])).pixel_accuracy
        for chosen in itertools.product(range(3), repeat=5)
    )
    mapping, _ = matching.match(counts)
    assert metrics.scores(counts, mapping).pixel_accuracy == best
