import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.segmentation.hard_pixels import IGNORE_INDEX, hard_pixel_loss


def batch(seed=0, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORE_INDEX
    return logits, labels


def sorted_losses(logits, labels):
    """Cross-entropy of every labelled pixel, hardest first, by its definition."""
    values = logits.detach().numpy().astype(np.float64)
    losses = []
    for (b, y, x), label in np.ndenumerate(labels.numpy()):
        if label != IGNORE_INDEX:
            scores = values[b, :, y, x]
            losses.append(np.log(np.exp(scores).sum()) - scores[label])
    return sorted(losses, reverse=True)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 1.0])
def test_loss_is_the_mean_over_the_hardest_labelled_pixels_of_the_batch(fraction):
    logits, labels = batch()
    losses = sorted_losses(logits, labels)
    expected = np.mean(losses[: max(1, round(fraction * len(losses)))])
    found = hard_pixel_loss(logits, labels, hardest_fraction=fraction)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_only_the_hardest_pixels_have_a_gradient():
    logits, labels = batch(ignored=0)
    hard_pixel_loss(logits, labels, hardest_fraction=0.2).backward()
    assert (logits.grad.abs().sum(dim=1) > 0).sum() == round(0.2 * labels.numel())


def test_a_batch_without_labels_has_no_loss_and_no_gradient():
    logits, labels = batch()
    loss = hard_pixel_loss(logits, torch.full_like(labels, IGNORE_INDEX), hardest_fraction=0.2)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_fraction_out_of_range_is_an_error(fraction):
    logits, labels = batch()
    with pytest.raises(ValueError, match="hardest fraction"):
        hard_pixel_loss(logits, labels, hardest_fraction=fraction)
