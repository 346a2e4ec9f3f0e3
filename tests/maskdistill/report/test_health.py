import numpy as np
import pandas as pd
import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.report import health


def manifest(*statuses):
    return pd.DataFrame(
        {"file_name": [f"{i}.jpg" for i in range(len(statuses))], "status": statuses}
    )


def masks(shares, quality=0.3):
    """Masks with these shares of their images, one per image; None is an image without any."""
    rows = [
        {
            "image_id": number,
            "share": share,
            "quality": None if share is None else quality,
            "status": "no proposal" if share is None else "ok",
        }
        for number, share in enumerate(shares)
    ]
    return pd.DataFrame(rows)


def test_images_that_could_not_be_read_are_counted_and_the_first_is_named():
    found = health.check_images("train", manifest("ok", "empty file (0 bytes)", "ok", "no image"))
    assert found.summary == "2 images could be read, 2 could not."
    assert "1.jpg (empty file (0 bytes))" in found.advice[0]
    skipped = {".txt": {"count": 1200, "example": "a"}, ".mov": {"count": 2, "example": "b"}}
    found = health.check_images("train", manifest("ok"), skipped)
    assert found.summary == "1 image could be read; skipped: 1,200 × .txt, 2 × .mov."
    assert not found.advice
    flat = {"of one colour": {"count": 1, "example": "0.jpg"}}
    found = health.check_images("train", manifest("ok", "ok"), one_colour=flat)
    assert found.summary == "2 images could be read, 1 of one colour."
    assert "The first is 0.jpg." in found.advice[0]
    found = health.check_images("train", manifest("ok"))
    assert (found.summary, found.advice) == ("1 image could be read.", [])


def test_masks_of_objects_need_no_advice():
    found = health.check_masks("val", masks([0.1, 0.3, 0.5, 0.2]))
    assert found.advice == []
    assert found.summary == (
        "4 masks in 4 images, 0 without any; the median mask covers 25% of its image, 0 cover at "
        "least 90% and 0 less than 0.5%; the median quality (share of the variance of keys that "
        "lies between mask and rest) is 0.30."
    )
    assert sum(found.distribution.counts) == 4
    assert found.distribution.counts[2] == 1  # 0.1, in steps of 0.05


@pytest.mark.parametrize(
    ("shares", "advice"),
    [
        ([1.0] * 2 + [0.3] * 18, "masks.center_keys: auto"),
        ([0.001] * 2 + [0.3] * 18, "raise masks.top_k"),
        ([None] * 2 + [0.3] * 18, "Many images have no object mask: 2 no proposal."),
    ],
)
def test_masks_that_say_nothing_come_with_what_to_do(shares, advice):
    (found,) = health.check_masks("val", masks(shares)).advice
    assert advice in found
    # One in twenty is no reason to worry.
    assert health.check_masks("val", masks([*shares[1:], 0.3])).advice == []


def test_masks_that_the_keys_do_not_separate():
    (advice,) = health.check_masks("val", masks([0.3] * 4, quality=0.01)).advice
    assert "hardly separate" in advice


def test_masks_of_whole_images_are_not_used_and_come_with_what_to_do():
    rows = masks([1.0] * 2 + [0.3] * 18)
    rows.loc[:1, "status"] = "whole image"
    found = health.check_masks("val", rows)
    assert "18 masks in 20 images, 2 without any" in found.summary
    assert "2 cover at least 90%" in found.summary
    (advice,) = found.advice
    assert "masks.center_keys: auto" in advice
    rows["status"] = "whole image"
    found = health.check_masks("val", rows)
    assert found.summary.endswith("; 20 masks cover the whole image and are not used.")
    assert found.advice == [advice]


def test_no_mask_at_all():
    found = health.check_masks("val", masks([None, None]))
    assert found.summary == "0 masks in 2 images, 2 without any."
    assert found.distribution is None


def test_clusters_too_small_too_large_and_loose():
    cluster = np.repeat([1, 2, 3], [60, 30, 8])
    distance = np.repeat([0.2, 0.2, 0.9], [60, 30, 8])
    found = health.check_clusters(pd.DataFrame({"cluster": cluster, "distance": distance}), 4)
    small, large, loose = found.advice
    assert small.startswith("1 cluster has fewer than 5 masks (4);")
    assert large.startswith("Cluster 1 holds 61% of all masks")
    assert loose.startswith("The masks of 1 cluster (3) have little in common:")
    assert found.summary.startswith("98 masks in 4 clusters of 0 to 60;")


def test_at_most_ten_clusters_are_listed():
    rows = pd.DataFrame({"cluster": range(1, 31), "distance": 0.1})
    (small,) = health.check_clusters(rows, 30).advice
    assert "30 clusters have fewer than 5 masks (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … 20 more)" in small


def test_even_clusters_need_no_advice():
    rows = pd.DataFrame({"cluster": np.repeat([1, 2], 20), "distance": np.tile([0.1, 0.2], 20)})
    assert health.check_clusters(rows, 2).advice == []


def test_candidates_below_the_threshold_and_images_without_any():
    rows = pd.DataFrame({"image_id": [0, 0, 1, 2, 3], "score": [0.3, 0.95, 0.2, 0.4, None]})
    found = health.check_candidates("val", rows, images=4, threshold=0.9, trained=True)
    assert found.summary == (
        "4 images, 1 without any candidate; the median of the best score per image is 0.40, and 2 "
        "do not exceed 0.9."
    )
    unsure, without = found.advice
    assert "confidence.threshold (0.9)" in unsure
    assert "candidates.score_floor" in without
    confident = pd.DataFrame({"image_id": [0, 1], "score": [0.95, 0.99]})
    assert (
        health.check_candidates("val", confident, images=2, threshold=0.9, trained=True).advice
        == []
    )


@pytest.mark.parametrize(
    ("losses", "advice"),
    [
        (np.linspace(2, 1, 40), None),
        (np.linspace(2, 1.95, 40), "did not fall"),
        ([2.0, float("nan"), 1.0], "not a number"),
        ([], "Train again"),
    ],
)
def test_the_loss_of_a_training(tmp_path, losses, advice):
    path = tmp_path / "history.csv"
    pd.DataFrame({"step": range(len(losses)), "loss": losses}).to_csv(
        path, index=False, na_rep="nan"
    )
    found = health.check_training("Mask R-CNN", path)
    assert (advice or "") in " ".join(found.advice)
    assert bool(found.advice) == (advice is not None)


@pytest.mark.parametrize("text", [None, "", "step,accuracy\n1,2\n"])
def test_a_file_that_is_no_history_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / "history.csv").write_text(text)
    with pytest.raises(InputError, match=r"history\.csv: missing, or not a table"):
        health.check_training("Mask R-CNN", tmp_path / "history.csv")


def test_lines_for_a_terminal():
    good = health.Finding("images", "train", "3 images could be read.", [])
    bad = health.Finding("training", "Mask R-CNN", "the loss stayed.", ["Train longer."])
    assert health.lines([good, bad]) == [
        "✓ images, train: 3 images could be read.",
        "! training, Mask R-CNN: the loss stayed.",
        "    Train longer.",
    ]


def test_images_with_several_masks_are_counted_once_each():
    """Three images: one usable mask of two, none of two, and none of one."""
    rows = pd.DataFrame(
        [
            (1, 0.3, 0.4, "ok"),
            (1, 0.001, 0.1, "too small"),
            (2, 0.002, 0.1, "too small"),
            (2, 0.0, 0.0, "empty mask"),
            (3, 0.97, 0.2, "too large"),
        ],
        columns=["image_id", "share", "quality", "status"],
    )
    found = health.check_masks("train", rows)
    assert found.summary.startswith("1 mask in 3 images, 2 without any; the median mask covers 30%")
    (advice,) = found.advice
    assert "Many images have no object mask: 1 too small, 1 too large." in advice
