import numpy as np
import pytest
import timm
import torch

from workflow_scripts.maskdistill import pretraining, resnet, scenes


@pytest.fixture(scope="module")
def clips() -> pretraining.Clips:
    return pretraining.draw_clips(12, seed=3, workers=1)


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
    found = pretraining.motion_masks(noisy)
    overlap = (found & expected).sum((1, 2)) / (found | expected).sum((1, 2))
    assert (overlap > 0.9).all()


def test_clips_do_not_depend_on_the_number_of_processes(clips):
    again = pretraining.draw_clips(12, seed=3, workers=2)
    np.testing.assert_array_equal(again.frames, clips.frames)
    np.testing.assert_array_equal(again.moving, clips.moving)


def test_things_fill_a_fair_part_of_the_motion_masks(clips):
    assert 0.02 < clips.moving.mean() < 0.4


def test_recolouring_keeps_shapes():
    image = scenes.scene(1, "train", 0).image[None].repeat(4, axis=0)
    mixed = pretraining.recolour(np.random.default_rng(0), image)
    grey = np.asarray(image, np.float32).mean(3)
    for original, changed in zip(grey, mixed.mean(1).numpy(), strict=True):
        assert abs(np.corrcoef(original.ravel(), changed.ravel())[0, 1]) > 0.999
    assert not torch.allclose(mixed[0], mixed[1])


def test_info_nce_is_least_for_matching_pairs():
    embeddings = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    matched = pretraining.info_nce(embeddings, embeddings, 0.1)
    shuffled = pretraining.info_nce(embeddings, embeddings.roll(1, 0), 0.1)
    assert matched < 0.2 < shuffled


@pytest.mark.parametrize("network", ["transformer", "resnet"])
def test_training_lowers_its_losses_and_fits_the_loaders(clips, network):
    recipe = pretraining.Recipe(clips=12, steps=25, batch_size=6, view=64, warmup=5)
    if network == "transformer":
        model, curve = pretraining.pretrain_transformer(recipe, clips)
        fresh = timm.create_model(
            pretraining.BACKBONE, num_classes=0, **pretraining.BACKBONE_OPTIONS
        )
    else:
        model, curve = pretraining.pretrain_resnet(recipe, clips)
        fresh = resnet.build_resnet(pretraining.RESNET_DEPTH)
    fresh.load_state_dict(model.state_dict())
    first, last = (sum(v for k, v in row.items() if k != "step") for row in (curve[0], curve[-1]))
    assert last < first
