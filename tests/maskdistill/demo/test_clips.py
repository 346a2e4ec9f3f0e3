import numpy as np
import pytest

from workflow_scripts.maskdistill.demo import scenes
from workflow_scripts.maskdistill.demo.clips import draw_clips, motion_masks, recolour
from workflow_scripts.maskdistill.demo.pretraining import TARGETS


def test_what_moves_is_what_the_generator_moved():
    """Background subtraction against a clip whose moving square is known."""
    generator = np.random.default_rng(0)
    clip = np.repeat(generator.integers(0, 100, (1, 60, 60, 3)), 7, axis=0)
    expected = np.zeros((7, 60, 60), bool)
    for frame in range(7):
        window = (frame, slice(3 + 7 * frame, 15 + 7 * frame), slice(20, 40))
        clip[window] = 200
        expected[window] = True
    noisy = np.clip(clip + generator.normal(0, 5, clip.shape), 0, 255).astype(np.uint8)
    found = motion_masks(noisy)
    overlap = (found & expected).sum((1, 2)) / (found | expected).sum((1, 2))
    assert (overlap > 0.9).all()


def test_clips_do_not_depend_on_the_number_of_processes(clips):
    again = draw_clips(12, seed=3, workers=2, describe=True)
    for one, other in zip(again, clips, strict=True):
        np.testing.assert_array_equal(one, other)


def test_things_fill_a_fair_part_of_the_motion_masks(clips):
    assert 0.02 < clips.moving.mean() < 0.4


def test_targets_of_single_things_are_standardised(clips):
    known = ~np.isnan(clips.targets).any(axis=1)
    assert 4 <= known.sum() <= 12
    targets = clips.targets[known]
    assert targets.shape[1] == TARGETS
    np.testing.assert_allclose(targets.mean(axis=0), 0, atol=1e-5)
    # Three kinds of descriptors with a variance of one each.
    assert targets.var(axis=0).sum() == pytest.approx(3, rel=0.1)


def test_recolouring_changes_colours_of_a_share():
    image = scenes.scene(1, "train", 0).image[None].repeat(200, axis=0)
    mixed = recolour(np.random.default_rng(0), image, share=0.5).numpy()
    untouched = np.isclose(mixed, image.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-5)
    assert 70 < untouched.all(axis=(1, 2, 3)).sum() < 130
    assert np.abs(mixed).max() < 6
