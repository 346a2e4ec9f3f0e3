import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.demo import scenes, things
from workflow_scripts.maskdistill.files import images, label_maps


@pytest.fixture(scope="module")
def drawn():
    return [scenes.scene(3, "train", index) for index in range(250)]


def test_a_scene_depends_on_its_arguments_only():
    first = scenes.scene(7, "val", 4)
    scenes.scene(7, "val", 5)
    again = scenes.scene(7, "val", 4)
    for name in ("image", "instances", "classes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for other in (("val", 5, 7), ("train", 4, 7), ("val", 4, 8)):
        split, index, seed = other
        image = scenes.scene(seed, split, index).image
        assert image.shape != first.image.shape or not np.array_equal(image, first.image)


def test_labels(drawn):
    classes, counts = set(), []
    for scene in drawn:
        height, width = scene.classes.shape
        assert scene.image.shape == (height, width, 3)
        assert scene.instances.shape == (height, width)
        assert {scene.image.dtype, scene.instances.dtype, scene.classes.dtype} == {
            np.dtype(np.uint8)
        }
        np.testing.assert_array_equal(scene.instances > 0, scene.classes > 0)
        numbers = np.unique(scene.instances[scene.instances > 0])
        for number in numbers:  # a thing has one class
            classes |= set(np.unique(scene.classes[scene.instances == number]).tolist())
            assert len(np.unique(scene.classes[scene.instances == number])) == 1
        counts.append(len(numbers))
        assert 0.03 < (scene.classes > 0).mean() < 0.6
    assert classes == set(range(1, len(things.CLASS_NAMES) + 1))
    assert set(counts) == {1, 2, 3}


def colours_of_things(drawn):
    found = [
        (
            scene.image[scene.instances == number].mean(axis=0),
            scene.classes[scene.instances == number][0],
        )
        for scene in drawn
        for number in np.unique(scene.instances[scene.instances > 0])
        if (scene.instances == number).sum() > 100
    ]
    colours, classes = zip(*found, strict=True)
    return np.stack(colours), np.array(classes, dtype=int)


def test_classes_cannot_be_told_by_their_colour(drawn):
    """Chance is one in six; nearest class mean and nearest neighbours do hardly better."""
    colours, classes = colours_of_things(drawn)
    half = len(classes) // 2
    means = np.stack([colours[:half][classes[:half] == c].mean(axis=0) for c in range(1, 7)])
    nearest_mean = np.linalg.norm(colours[half:, None] - means, axis=2).argmin(axis=1) + 1
    order = np.linalg.norm(colours[half:, None] - colours[:half], axis=2).argsort(axis=1)
    neighbours = classes[:half][order[:, :15]]
    votes = np.stack([(neighbours == c).sum(axis=1) for c in range(1, 7)])
    for predicted in (nearest_mean, votes.argmax(axis=0) + 1):
        assert (predicted == classes[half:]).mean() < 0.28


def test_things_cannot_be_told_from_the_background_by_their_colour(drawn):
    """The best threshold on any channel separates pixels hardly better than none."""
    rng = np.random.default_rng(0)
    inside, outside = [], []
    for scene in drawn:
        for pixels, chosen in ((inside, scene.classes > 0), (outside, scene.classes == 0)):
            pixels.append(rng.choice(scene.image[chosen], 50))
    inside, outside = np.concatenate(inside), np.concatenate(outside)
    for channel in range(3):
        for threshold in range(20, 240, 20):
            rates = [(part[:, channel] > threshold).mean() for part in (inside, outside)]
            assert abs(rates[0] - rates[1]) < 0.25


def test_a_clip_has_one_background_and_things_that_move():
    clip = scenes.clip(np.random.default_rng(0), size=96, frames=7)
    assert clip.shape == (7, 96, 96, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, scenes.clip(np.random.default_rng(0), size=96, frames=7))
    difference = np.abs(clip - np.median(clip, axis=0)).max(axis=3) > 40
    # Most of every frame rests, and something moves in each.
    assert (difference.mean(axis=(1, 2)) < 0.4).all()
    assert (difference.mean(axis=(1, 2)) > 0.02).all()
    with pytest.raises(ValueError, match="at least 80"):
        scenes.clip(np.random.default_rng(0), size=79)


@pytest.mark.parametrize("arguments", [(1, "test", 0), (-1, "train", 0), (1, "train", -1)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"."):
        scenes.scene(*arguments)


def test_the_tree_is_read_as_pascal_voc(tmp_path):
    scenes.write_voc_tree(tmp_path, train=3, val=2, seed=5)
    dataset = {
        "adapter": "voc",
        "splits": {"train": "train", "val": "val"},
        "ground_truth": True,
        "classes": list(things.CLASS_NAMES),
    }
    assert len(datasets.list_images(dataset, tmp_path, "train")) == 3
    listed = datasets.list_images(dataset, tmp_path, "val")
    truth = GroundTruth(dataset, tmp_path, "val")
    for index, image in enumerate(listed):
        expected = scenes.scene(5, "val", index)
        assert images.probe_image(tmp_path / image.file_name).size == expected.classes.shape
        pixels = images.read_image(tmp_path / image.file_name).astype(int)
        assert abs(pixels - expected.image).mean() < 12  # JPEG halves the colours
        np.testing.assert_array_equal(truth.semantic(*image), expected.classes)
        found = truth.instances(*image)
        numbers = np.unique(expected.instances[expected.instances > 0])
        assert len(found) == len(numbers)
        for instance, number in zip(found, numbers, strict=True):
            np.testing.assert_array_equal(instance.mask, expected.instances == number)
            assert instance.class_id == expected.classes[instance.mask][0]
    with Image.open(tmp_path / "SegmentationClass" / "val_00000.png") as image:
        assert image.mode == "P"
        palette = np.array(image.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(palette, label_maps.PALETTE[: len(palette)])
