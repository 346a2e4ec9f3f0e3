import pytest
import torch

from tests.maskdistill.discovery.test_vit import pictures
from workflow_scripts.maskdistill.cpu_kernels import threads
from workflow_scripts.maskdistill.cpu_kernels.threads import by_image
from workflow_scripts.maskdistill.discovery.vit import Backbone


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_images_keep_their_order_and_are_computed_by_one_thread_each(two_threads, count):
    calls = []

    def double(part):
        calls.append((len(part), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return 2 * part, part.mean(dim=(1, 2, 3))

    batch = torch.rand(count, 3, 8, 16)
    doubled, means = by_image(double, batch)
    assert torch.equal(doubled, 2 * batch)
    assert torch.equal(means, batch.mean(dim=(1, 2, 3)))
    assert sum(images for images, _, _ in calls) == count
    if count > 1:
        assert len(calls) == 2
        assert all(number == 1 and inference for _, number, inference in calls)


def test_a_thread_does_not_get_more_pixels_than_its_caches_hold(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "PIXELS", 2 * 8 * 8)
    sizes = []

    def record(part):
        sizes.append(len(part))
        return (part,)

    by_image(record, torch.zeros(7, 3, 8, 8))
    assert sorted(sizes) == [1, 2, 2, 2]
    sizes.clear()
    by_image(record, torch.zeros(3, 3, 80, 80))
    assert sizes == [1, 1, 1]


def test_errors_of_a_thread_arrive(two_threads):
    def fail(part):
        raise MemoryError

    with pytest.raises(MemoryError):
        by_image(fail, torch.zeros(2, 3, 8, 8))


def test_features_and_embeddings_do_not_depend_on_the_threads(two_threads, tiny_backbone):
    names = {"backbone": "name", "backbone_options": "options", "weights": "weights"}
    backbone = Backbone(**{new: tiny_backbone[old] for old, new in names.items()})
    batch = backbone.prepare(pictures(5, 40, 48))
    found = (*backbone.last_block_features(batch, with_tokens=True), backbone.embed(batch))
    torch.set_num_threads(1)
    alone = (*backbone.last_block_features(batch, with_tokens=True), backbone.embed(batch))
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_the_threads_of_the_caller_stay_as_many(two_threads):
    by_image(lambda part: (part,), torch.zeros(4, 3, 8, 8))
    assert torch.get_num_threads() == 2
