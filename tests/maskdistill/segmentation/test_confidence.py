import numpy as np

from workflow_scripts.maskdistill.files import masks
from workflow_scripts.maskdistill.segmentation import confidence

SIZE = (10, 14)


def candidate(candidate_id, score, cluster=1, box=(0, 4, 0, 4)):
    mask = np.zeros(SIZE, bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return {
        "candidate_id": candidate_id,
        "score": score,
        "cluster": cluster,
        **masks.encode(mask)._asdict(),
    }


def kept(scores, threshold):
    rows = [candidate(number, score) for number, score in enumerate(scores)]
    return [row["candidate_id"] for row in confidence.confident(rows, threshold, keep_best=True)]


def test_the_threshold_is_strict_and_the_order_by_score():
    assert kept([0.91, 0.9, 0.99, 0.2, 0.95], 0.9) == [2, 4, 0]
    assert kept([0.5, 0.25, 0.5000001], 0.5) == [2]


def test_without_a_confident_one_the_best_is_kept():
    assert kept([0.3, 0.7, 0.5], 0.9) == [1]
    assert kept([0.9, 0.9], 0.9) == [0]
    assert kept([0.0], 0.0) == [0]


def test_of_equal_scores_the_lower_id_comes_first():
    rows = [candidate(number, 0.95) for number in (5, 2, 9)]

    def kept(threshold):
        found = confidence.confident(rows, threshold, keep_best=True)
        return [row["candidate_id"] for row in found]

    assert kept(0.9) == [2, 5, 9]
    assert kept(0.99) == [2]


def test_without_a_confident_one_there_may_be_no_object():
    weak = [{"candidate_id": 0, "score": 0.5}]
    assert confidence.confident(weak, 0.9, keep_best=False) == []
    assert confidence.confident(weak, 0.4, keep_best=False) == weak


def test_no_candidate_at_all():
    nothing = {"candidate_id": None, "score": None, "cluster": None}
    assert confidence.confident([nothing], 0.9, keep_best=True) == []
    assert confidence.confident([], 0.9, keep_best=True) == []
    labels = confidence.paint([], SIZE, 5)
    assert labels.shape == SIZE
    assert not labels.any()


def test_where_candidates_overlap_the_more_confident_one_wins():
    rows = [
        candidate(0, 0.91, cluster=1, box=(0, 6, 0, 8)),
        candidate(1, 0.99, cluster=2, box=(3, 9, 4, 12)),
        candidate(2, 0.95, cluster=3, box=(2, 5, 2, 10)),
        candidate(3, 0.10, cluster=4, box=(0, 10, 0, 14)),
    ]
    labels = confidence.paint(confidence.confident(rows, 0.9, keep_best=True), SIZE, 4)
    expected = np.zeros(SIZE, np.uint8)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            for y0, y1, x0, x1, cluster in ((3, 9, 4, 12, 2), (2, 5, 2, 10, 3), (0, 6, 0, 8, 1)):
                if y0 <= y < y1 and x0 <= x < x1:
                    expected[y, x] = cluster
                    break
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_equal_scores_overlap_in_the_order_of_their_ids():
    rows = [candidate(1, 0.95, cluster=2), candidate(0, 0.95, cluster=1)]
    labels = confidence.paint(confidence.confident(rows, 0.9, keep_best=True), SIZE, 300)
    assert labels.dtype == np.uint16
    assert np.unique(labels).tolist() == [0, 1]
