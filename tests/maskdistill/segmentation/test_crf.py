import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.segmentation import crf
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings


def mean_field(probabilities, image, settings):
    """Mean-field inference by its definition, over all pairs of pixels, with normalised kernels.

    Krähenbühl and Koltun (2011), Algorithm 1, with pydensecrf's symmetric normalisation.
    """
    classes, height, width = probabilities.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(float)
    colors = image.reshape(-1, 3).astype(float)
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    differences = ((colors[:, None] - colors) ** 2).sum(-1)
    kernels = [
        (settings.gaussian_weight, np.exp(-squared / (2 * settings.gaussian_sigma**2))),
        (
            settings.bilateral_weight,
            np.exp(
                -squared / (2 * settings.bilateral_sigma_xy**2)
                - differences / (2 * settings.bilateral_sigma_rgb**2)
            ),
        ),
    ]
    pairwise = 0
    for weight, kernel in kernels:
        norm = 1 / np.sqrt(kernel.sum(1))
        pairwise = pairwise + weight * norm[:, None] * kernel * norm
    unary = np.log(np.clip(probabilities.reshape(classes, -1), 1e-5, 1))

    def softmax(scores):
        scores = np.exp(scores - scores.max(0))
        return scores / scores.sum(0)

    q = softmax(unary)
    for _ in range(settings.iterations):
        q = softmax(unary + q @ pairwise)
    return q.reshape(probabilities.shape)


def noisy_square(seed=0, size=24, noise=0.35):
    """A red square on blue, and probabilities that are wrong at many single pixels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((size, size), int)
    truth[6:18, 6:18] = 1
    image = np.where(truth[..., None] == 1, [200, 20, 20], [20, 20, 200]).astype(np.uint8)
    confidence = np.where(rng.random(truth.shape) < noise, 0.3, 0.7)
    other = 1 - confidence
    probabilities = np.where(
        truth == 1, np.stack([other, confidence]), np.stack([confidence, other])
    ).astype(np.float32)
    return truth, image, probabilities


def item(number, probabilities, image):
    return crf.Item(number, probabilities, image, image.shape[:2])


def test_single_wrong_pixels_go_and_the_edge_of_the_image_stays():
    truth, image, probabilities = noisy_square()
    assert (probabilities.argmax(0) == truth).mean() < 0.75
    labels = crf.refined_labels(probabilities, image, CRFSettings())
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, truth)


def test_it_is_mean_field_inference_as_published():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 40, (12, 14, 3), dtype=np.uint8)
    probabilities = rng.dirichlet(np.ones(3), (12, 14)).transpose(2, 0, 1).astype(np.float32)
    settings = CRFSettings(bilateral_sigma_rgb=30.0, bilateral_sigma_xy=20.0, iterations=3)
    found = crf.refine(probabilities, image, settings)
    expected = mean_field(probabilities, image, settings)
    # pydensecrf approximates the kernels by filtering on a lattice, which blurs a little more.
    assert abs(found - expected).mean() < 0.08
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def test_probabilities_remain_probabilities():
    _, image, probabilities = noisy_square()
    refined = crf.refine(probabilities, image, CRFSettings())
    assert refined.shape == probabilities.shape
    assert refined.dtype == np.float32
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-4)


def test_without_weights_nothing_changes():
    _, image, probabilities = noisy_square()
    settings = CRFSettings(gaussian_weight=0, bilateral_weight=0)
    np.testing.assert_allclose(crf.refine(probabilities, image, settings), probabilities, atol=1e-4)


def test_certain_probabilities_and_arrays_of_any_layout_are_accepted():
    truth, image, probabilities = noisy_square(size=20)
    certain = np.stack([truth == 0, truth == 1]).astype(np.float32)
    found = crf.refined_labels(certain, image, CRFSettings())
    np.testing.assert_array_equal(found, truth)
    plain = crf.refine(probabilities, image, CRFSettings())
    other = crf.refine(np.asfortranarray(probabilities), np.asfortranarray(image), CRFSettings())
    np.testing.assert_array_equal(plain, other)


def test_height_and_width_are_not_confused():
    truth, image, probabilities = noisy_square()
    wide = np.s_[:16]
    labels = crf.refined_labels(probabilities[:, wide], image[wide], CRFSettings())
    np.testing.assert_array_equal(labels, truth[wide])


@pytest.mark.parametrize("count", [1, 3])
def test_workers_give_what_one_call_gives_in_order(count):
    scenes = {number: noisy_square(number, noise=0.45) for number in range(7)}
    settings = CRFSettings(iterations=2)
    with crf.start_workers(count, settings) as workers:
        found = list(
            workers.refine(item(number, p, image) for number, (_, image, p) in scenes.items())
        )
    assert [number for number, _ in found] == list(scenes)
    for number, labels in found:
        _, image, probabilities = scenes[number]
        np.testing.assert_array_equal(labels, crf.refined_labels(probabilities, image, settings))


@pytest.mark.parametrize("size", [(24, 24), (97, 61), (240, 240)])
def test_label_maps_have_the_size_of_the_photograph(size):
    truth, image, probabilities = noisy_square()
    settings = CRFSettings()
    alone = crf.refined_labels(probabilities, image, settings, size)
    assert alone.dtype == np.uint16
    assert alone.shape == size
    expected = Image.fromarray(truth.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    # Enlarging moves the square's border by less than half of an enlarged pixel.
    assert (alone == np.asarray(expected)).mean() > (0.97 if size != (24, 24) else 0.9999)
    # This makes torch start threads here. The forked processes do not have them, and must not
    # wait for them.
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    with crf.start_workers(2, settings) as workers:
        items = [crf.Item(number, probabilities, image, size) for number in range(3)]
        for _, labels in workers.refine(items):
            np.testing.assert_array_equal(labels, alone)


def test_few_probabilities_are_in_memory_however_many_processes_there_are(monkeypatch):
    _, image, probabilities = noisy_square()
    monkeypatch.setattr(crf, "VALUES_AHEAD", 2 * probabilities.size)
    asked = 0

    def items():
        nonlocal asked
        for number in range(10):
            asked += 1
            yield item(number, probabilities, image)

    with crf.start_workers(4, CRFSettings(iterations=1)) as workers:
        for number, _ in workers.refine(items()):
            # Two images are being refined, and one more waits.
            assert asked <= number + 3


def test_few_images_are_asked_for_ahead():
    _, image, probabilities = noisy_square()
    asked = 0

    def items():
        nonlocal asked
        for number in range(10):
            asked += 1
            yield item(number, probabilities, image)

    with crf.start_workers(2, CRFSettings(iterations=1)) as workers:
        for number, _ in workers.refine(items()):
            assert asked <= number + 3


def test_errors_of_a_worker_arrive():
    _, image, probabilities = noisy_square()
    with (
        crf.start_workers(1, CRFSettings()) as workers,
        pytest.raises(ValueError, match="image must be"),
    ):
        list(workers.refine([item(1, probabilities[:, :10], image)]))


def test_workers_end_when_their_parent_is_killed():
    script = (
        "import multiprocessing, sys\n"
        "from workflow_scripts.maskdistill.segmentation import crf\n"
        "from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings\n"
        "with crf.start_workers(3, CRFSettings()):\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parent = subprocess.Popen([sys.executable, "-c", script], text=True, **pipes)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 3
    parent.kill()
    parent.wait()
    # The pipe closes when the workers, which also have it open, have ended.
    assert parent.stdout.read() == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [({"iteration": 3}, "crf.iteration"), ({"bilateral_sigma_xy": 0}, "crf.bilateral_sigma_xy")],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(InputError, match=message):
        CRFSettings.read(values)


def test_the_defaults_are_the_papers():
    settings = CRFSettings.read({})
    assert (settings.iterations, settings.gaussian_weight, settings.gaussian_sigma) == (10, 3, 1)
    assert settings.bilateral_weight == 4
    assert (settings.bilateral_sigma_xy, settings.bilateral_sigma_rgb) == (67, 3)


def test_labels_that_are_nowhere_cost_nothing_and_change_little():
    rng = np.random.default_rng(4)
    _, image, probabilities = noisy_square()
    absent = rng.uniform(0, 0.002, (40, *image.shape[:2])).astype(np.float32)
    many = np.concatenate([probabilities, absent])
    many /= many.sum(0)
    full = crf.refine(many, image, CRFSettings())
    pruned = crf.refine(many, image, CRFSettings(min_probability=0.01))
    assert not pruned[2:].any()
    np.testing.assert_array_equal(pruned.argmax(0), full.argmax(0))
    np.testing.assert_allclose(pruned[:2], full[:2], atol=0.02)


def test_the_most_probable_label_always_stays():
    probabilities = np.full((60, 8, 8), 1 / 61, np.float32)
    probabilities[7] = 2 / 61
    image = np.zeros((8, 8, 3), np.uint8)
    labels = crf.refined_labels(probabilities, image, CRFSettings(min_probability=0.5))
    assert (labels == 7).all()


def test_a_bound_on_the_side_is_a_crf_of_the_smaller_image():
    """The bound is 24 pixels: the first image has this size, the second is twice as large."""
    truth, image, probabilities = noisy_square()
    settings = CRFSettings(longer_side=24)
    np.testing.assert_array_equal(
        crf.refined_labels(probabilities, image, settings),
        crf.refined_labels(probabilities, image, CRFSettings()),
    )
    double = (np.repeat(np.repeat(values, 2, -2), 2, -1) for values in (image.T, probabilities))
    large, confidences = next(double).T, next(double)
    labels = crf.refined_labels(confidences, large, settings)
    assert labels.shape == (48, 48)
    expected = np.repeat(np.repeat(truth, 2, 0), 2, 1)
    np.testing.assert_array_equal(labels, expected)


def test_the_time_of_a_crf_is_that_of_the_smaller_image(monkeypatch):
    sizes = []

    def refine(probabilities, image, settings):
        sizes.append((probabilities.shape[1:], image.shape[:2]))
        return probabilities

    monkeypatch.setattr(crf, "refine", refine)
    probabilities = np.full((2, 60, 80), 0.5, np.float32)
    image = np.zeros((60, 80, 3), np.uint8)
    labels = crf.refined_labels(probabilities, image, CRFSettings(longer_side=40), (120, 160))
    assert sizes == [((30, 40), (30, 40))]
    assert labels.shape == (120, 160)
