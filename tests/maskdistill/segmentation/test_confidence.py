import numpy as np
import pytest

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


def kept_of(rows, overlap, threshold=0.5):
    found = confidence.confident(rows, threshold, keep_best=True, overlap=overlap)
    return [row["candidate_id"] for row in found]


def test_of_two_clusters_on_one_object_only_the_more_confident_stays():
    # Boxes of 4 x 4 and 4 x 5 pixels share 16 pixels: their IoU is 16 / 20 = 0.8.
    rows = [candidate(0, 0.6, cluster=1), candidate(1, 0.9, cluster=2, box=(0, 4, 0, 5))]
    assert kept_of(rows, overlap=0.7) == [1]
    assert kept_of(rows, overlap=0.8) == [1, 0]  # an IoU equal to `overlap` is allowed
    assert kept_of(rows, overlap=1) == [1, 0]
    rows[0]["cluster"] = 2
    assert kept_of(rows, overlap=0.7) == [1, 0]


def test_all_overlaps_are_kept_by_default_even_of_equal_masks():
    rows = [candidate(number, 0.9, cluster=number) for number in range(3)]
    found = confidence.confident(rows, 0.5, keep_best=True)
    assert [row["candidate_id"] for row in found] == kept_of(rows, overlap=1) == [0, 1, 2]
    assert kept_of(rows, overlap=0.99) == [0]


def test_a_candidate_that_is_left_out_suppresses_no_other():
    rows = [
        candidate(0, 0.7, cluster=3, box=(0, 4, 2, 6)),  # IoU 1/3 with candidate 2
        candidate(1, 0.8, cluster=2, box=(0, 4, 1, 5)),  # IoU 3/5 with candidates 0 and 2
        candidate(2, 0.9, cluster=1),
    ]
    assert kept_of(rows, overlap=0.5) == [2, 0]
    assert kept_of(rows, overlap=0.3) == [2]
    assert kept_of(rows, overlap=0.6) == [2, 1, 0]


def test_ties_are_suppressed_in_the_order_of_their_ids():
    rows = [candidate(number, 0.95, cluster=number) for number in (5, 2, 9)]
    assert kept_of(rows, overlap=0.5) == [2]


def test_suppression_comes_after_the_threshold():
    """Candidates below the threshold suppress no others; if all are below, the best is kept."""
    rows = [candidate(0, 0.4, cluster=1), candidate(1, 0.3, cluster=2)]
    assert kept_of(rows, overlap=0.5) == [0]
    same = [candidate(0, 0.6, cluster=1), candidate(1, 0.3, cluster=2)]
    assert kept_of(same, overlap=0.5) == [0]
    assert confidence.confident(rows, 0.5, keep_best=False, overlap=0.5) == []


@pytest.mark.parametrize("seed", range(3))
def test_what_stays_is_what_a_loop_over_pixels_keeps(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(12):
        y, x = rng.integers(0, 5, 2)
        height, width = rng.integers(3, 6, 2)
        score = rng.choice([0.6, 0.7, 0.8])
        rows.append(candidate(number, score, rng.integers(1, 4), (y, y + height, x, x + width)))
    expected = []
    for row in sorted(rows, key=lambda row: (-row["score"], row["candidate_id"])):
        own = masks.decode_row(row)
        for other in expected:
            mask = masks.decode_row(other)
            iou = (own & mask).sum() / (own | mask).sum()
            if other["cluster"] != row["cluster"] and iou > 0.4:
                break
        else:
            expected.append(row)
    assert 1 < len(expected) < 12
    assert kept_of(rows, overlap=0.4) == [row["candidate_id"] for row in expected]
