import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import jaccard_score

from workflow_scripts.maskdistill.evaluation import confusion_matrix, matching


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
    iou = confusion_matrix.iou_table(counts)
    found = sum(iou[mapping[cluster], cluster] for cluster in range(1, clusters + 1))
    assert found == pytest.approx(best_by_brute_force(counts))


@pytest.mark.parametrize("seed", range(5))
def test_a_perfect_prediction_under_other_names_scores_1(seed):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 7, (50, 60)).astype(np.uint8)
    renamed = np.concatenate([[0], 1 + rng.permutation(6)]).astype(np.uint8)
    matrix = confusion_matrix.ConfusionMatrix(6, 6)
    matrix.add(renamed[target], target)
    mapping, _ = matching.match(matrix.counts)
    np.testing.assert_array_equal(mapping[renamed], np.arange(7))
    scores = confusion_matrix.scores(matrix.counts, mapping)
    assert scores.miou == scores.pixel_accuracy == 1.0


def test_a_pair_without_a_common_pixel_is_no_match():
    # Cluster 2 lies on background only; class 2 does not occur at all.
    counts = np.array([[50, 0, 5], [0, 10, 0], [0, 0, 0]])
    mapping, _ = matching.match(counts)
    assert mapping.tolist() == [0, 1, confusion_matrix.UNMATCHED]
    assert np.isnan(confusion_matrix.scores(counts, mapping).iou[2])


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
    assert mapping.tolist() == [0, 1, 0, 2, confusion_matrix.UNMATCHED]


def test_majority_is_the_best_many_to_one_matching_for_pixel_accuracy():
    counts = random_counts(2, 5, 3)
    counts[0, 0] = counts[:, 0].max() + 1
    best = max(
        confusion_matrix.scores(counts, np.array([0, *chosen])).pixel_accuracy
        for chosen in itertools.product(range(3), repeat=5)
    )
    mapping, _ = matching.match(counts)
    assert confusion_matrix.scores(counts, mapping).pixel_accuracy == best


def pixel_lists(case, seed):
    """Ground truth 0..5 or 255, and predicted clusters 0..4, of some thousand pixels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, 3000).astype(np.uint8)
    found = rng.integers(0, 5, 3000).astype(np.uint8)
    if case == "good":
        found = np.where(rng.random(3000) < 0.7, truth % 5, found).astype(np.uint8)
    elif case == "rare classes":
        truth[rng.random(3000) < 0.99] = 0
    elif case == "absent classes":
        truth[np.isin(truth, [2, 3, 5])] = 0
    elif case == "one cluster":
        found[:] = 3
    elif case == "nothing found":
        found[:] = 0
    elif case == "two classes share their best cluster":
        found = np.array([0, 1, 1, 2, 2, 1], np.uint8)[truth]
    elif case == "few pixels count":
        truth[5:] = 255
    truth[rng.random(3000) < 0.05] = 255
    return truth, found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "case",
    [
        "random",
        "good",
        "rare classes",
        "absent classes",
        "one cluster",
        "nothing found",
        "two classes share their best cluster",
        "few pixels count",
    ],
)
def test_miou_is_that_of_scikit_learn_and_scipy_on_pixel_lists(case, seed):
    truth, found = pixel_lists(case, seed)
    matrix = confusion_matrix.ConfusionMatrix(5, 4)
    for part in np.array_split(np.arange(3000), 7):
        matrix.add(found[part][None], truth[part][None])
    mapping, method = matching.match(matrix.counts)
    assert method == "hungarian"

    truth, found = truth[truth != 255], found[truth != 255]
    overlaps = np.array(
        [
            [jaccard_score(truth == i, found == j, zero_division=0) for j in range(1, 5)]
            for i in range(1, 6)
        ]
    )
    classes, clusters = linear_sum_assignment(overlaps, maximize=True)
    names = np.full(5, 99)  # of the clusters; 99 is no class
    names[0] = 0
    for i, j in zip(classes, clusters, strict=True):
        if overlaps[i, j] > 0:
            names[j + 1] = i + 1
    present = [i for i in range(6) if i in truth or i in names[found]]
    expected = jaccard_score(truth, names[found], labels=present, average="macro", zero_division=0)
    scores = confusion_matrix.scores(matrix.counts, mapping)
    assert scores.miou == pytest.approx(expected)
    matched = [overlaps[mapping[j] - 1, j - 1] for j in range(1, 5) if mapping[j] > 0]
    assert sum(matched) == pytest.approx(overlaps[classes, clusters].sum())
