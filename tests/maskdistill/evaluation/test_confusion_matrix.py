import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import (
    accuracy_score,
    adjusted_rand_score,
    jaccard_score,
    normalized_mutual_info_score,
)

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation import confusion_matrix

CLASSES, CLUSTERS = 4, 6


def label_pairs(count=5, seed=0):
    """Predictions (0..CLUSTERS) and targets (0..CLASSES, a tenth of them 255)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        size = tuple(rng.integers(5, 40, 2))
        target = rng.integers(0, CLASSES + 1, size).astype(np.uint8)
        target[rng.random(size) < 0.1] = 255
        yield rng.integers(0, CLUSTERS + 1, size).astype(np.uint8), target


def test_confusion_matrix_is_that_of_scikit_learn_without_ignored_pixels():
    ours = confusion_matrix.ConfusionMatrix(CLASSES, CLUSTERS)
    pixels = []
    for prediction, target in label_pairs():
        ours.add(prediction, target)
        pixels.append(np.stack([target.ravel(), prediction.ravel()]))
    truth, found = np.concatenate(pixels, axis=1)
    keep = truth != 255
    expected = sklearn_metrics.confusion_matrix(
        truth[keep], found[keep], labels=range(CLUSTERS + 1)
    )
    assert ours.counts.shape == (CLASSES + 1, CLUSTERS + 1)
    np.testing.assert_array_equal(ours.counts, expected[: CLASSES + 1])


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 2000).astype(np.uint8)
    found = np.where(rng.random(2000) < 0.6, truth, rng.integers(0, 5, 2000)).astype(np.uint8)
    matrix = confusion_matrix.ConfusionMatrix(4, 4)
    matrix.add(found, truth)
    scores = confusion_matrix.scores(matrix.counts, np.arange(5))
    np.testing.assert_allclose(scores.iou, jaccard_score(truth, found, average=None))
    assert scores.miou == pytest.approx(jaccard_score(truth, found, average="macro"))
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(truth, found))


def test_parts_add_up_to_the_whole():
    whole = confusion_matrix.ConfusionMatrix(CLASSES, CLUSTERS)
    merged = confusion_matrix.ConfusionMatrix(CLASSES, CLUSTERS)
    for prediction, target in label_pairs():
        whole.add(prediction, target)
        part = confusion_matrix.ConfusionMatrix(CLASSES, CLUSTERS)
        part.add(prediction, target)
        merged += part
    np.testing.assert_array_equal(whole.counts, merged.counts)
    with pytest.raises(ValueError, match="do not add up"):
        merged += confusion_matrix.ConfusionMatrix(CLASSES, CLUSTERS + 1)


def test_a_prediction_of_ignore_counts_as_background():
    matrix = confusion_matrix.ConfusionMatrix(1, 300)
    matrix.add(np.array([[65535, 0, 300]], dtype=np.uint16), np.array([[1, 0, 1]], dtype=np.uint8))
    assert matrix.counts[1, 0] == matrix.counts[0, 0] == matrix.counts[1, 300] == 1
    assert matrix.counts.sum() == 3


def test_an_image_of_nothing_but_ignore_adds_nothing():
    matrix = confusion_matrix.ConfusionMatrix(2, 2)
    matrix.add(np.ones((3, 3), np.uint8), np.full((3, 3), 255, np.uint8))
    assert matrix.counts.sum() == 0
    assert np.isnan(confusion_matrix.scores(matrix.counts, np.arange(3)).miou)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.full((2, 2), 3), np.zeros((2, 2)), "label map has label 3"),
        (np.zeros((2, 2)), np.full((2, 2), 3), "ground truth has label 3"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "size of the image"),
    ],
)
def test_bad_label_maps_are_refused(prediction, target, message):
    matrix = confusion_matrix.ConfusionMatrix(2, 2)
    with pytest.raises(InputError, match=message):
        matrix.add(prediction.astype(np.uint8), target.astype(np.uint8))
    assert matrix.counts.sum() == 0


def test_a_missed_class_counts_and_an_absent_class_does_not():
    #               background, 1, 2, 3: class 1 found, 2 has no cluster, 3 is nowhere
    counts = np.array([[8, 0], [0, 4], [4, 0], [0, 0]])
    scores = confusion_matrix.scores(counts, np.array([0, 1]))
    np.testing.assert_allclose(scores.iou, [8 / 12, 1, 0, np.nan])
    assert scores.miou == pytest.approx((8 / 12 + 1 + 0) / 3)
    assert scores.pixel_accuracy == 12 / 16


def test_a_class_that_is_predicted_but_absent_has_iou_0():
    counts = np.array([[8, 2], [0, 0]])
    scores = confusion_matrix.scores(counts, np.array([0, 1]))
    np.testing.assert_allclose(scores.iou, [0.8, 0])


def test_pixels_of_an_unmatched_cluster_are_missed_by_their_class():
    counts = np.array([[6, 0, 0], [0, 3, 3]])
    mapping = np.array([0, 1, confusion_matrix.UNMATCHED])
    np.testing.assert_array_equal(
        confusion_matrix.matched_counts(counts, mapping), [[6, 0, 0], [0, 3, 3]]
    )
    np.testing.assert_allclose(confusion_matrix.scores(counts, mapping).iou, [1, 0.5])


def test_clusters_of_one_class_add_up():
    counts = np.array([[6, 0, 0, 1], [0, 3, 2, 0]])
    mapping = np.array([0, 1, 1, 0])
    np.testing.assert_array_equal(
        confusion_matrix.matched_counts(counts, mapping), [[7, 0, 0], [0, 5, 0]]
    )


@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0])
def test_agreement_is_that_of_scikit_learn(quality):
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 5, 3000)
    noise = rng.integers(0, 7, 3000)
    found = np.where(rng.random(3000) < quality, truth, noise)
    counts = np.zeros((5, 7), dtype=np.int64)
    np.add.at(counts, (truth, found), 1)
    agreement = confusion_matrix.agreement(counts)
    assert agreement.nmi == pytest.approx(normalized_mutual_info_score(truth, found))
    assert agreement.ari == pytest.approx(adjusted_rand_score(truth, found))
    # Purity by its definition, cluster by cluster.
    right = sum(np.bincount(truth[found == c]).max() for c in np.unique(found))
    assert agreement.purity == pytest.approx(right / 3000)


def test_agreement_at_the_edges():
    one_block = np.array([[50]])
    assert confusion_matrix.agreement(one_block) == (1, 1, 1)
    assert np.isnan(confusion_matrix.agreement(np.zeros((2, 2), dtype=np.int64))).all()
    # All in one cluster tells nothing of three classes.
    nmi, ari, purity = confusion_matrix.agreement(np.array([[20, 0], [20, 0], [60, 0]]))
    assert (nmi, ari, purity) == (0, 0, 0.6)


def test_agreement_of_more_pixels_than_64_bits_of_pairs():
    counts = np.array([[7, 1], [2, 5]], dtype=np.int64)
    large = confusion_matrix.agreement(counts * 10**9)
    # Without the pairs of a pixel with itself, which vanish among so many.
    pairs = [(np.float64(part) ** 2).sum() for part in (counts, counts.sum(0), counts.sum(1))]
    expected = pairs[1] * pairs[2] / 15**2
    assert large.ari == pytest.approx(
        (pairs[0] - expected) / ((pairs[1] + pairs[2]) / 2 - expected), rel=1e-6
    )


@pytest.mark.parametrize("label", [3, 700])
def test_wide_label_maps_ignore_and_refuse_as_narrow_ones_do(label):
    target = np.array([[0, 1, 2, 65535]], np.uint16)
    matrix = confusion_matrix.ConfusionMatrix(2, 300)
    matrix.add(np.array([[65535, 300, 2, 5]], np.uint16), target)
    assert matrix.counts.sum() == 3
    assert matrix.counts[0, 0] == matrix.counts[1, 300] == matrix.counts[2, 2] == 1
    target[0, 1] = label
    with pytest.raises(InputError, match=f"ground truth has label {label}"):
        matrix.add(np.zeros_like(target), target)
