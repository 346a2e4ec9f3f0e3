import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.segmentation import deployment, label_map_prediction
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab

SIZES = [(40, 56), (33, 47), (18, 91)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    options = {"frozen_stages": 0, "atrous_rates": [1, 2], "head_width": 8}
    built = build_deeplab(5, depth=10, output_stride=16, **options).eval()
    # Random weights give nearly equal logits at all pixels; larger ones make the labels differ.
    with torch.no_grad():
        built.head[-1].weight *= 30
    return built


def picture(size, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    rows, columns = (np.arange(n) * 9 // n for n in size)
    return coarse[rows][:, columns]


@pytest.mark.parametrize("size", [*SIZES, (1, 5), (32, 64)])
def test_it_does_what_the_predictor_does(model, size):
    predictor = label_map_prediction.Predictor(model, 5, torch.device("cpu"), settings={})
    expected = predictor.predict_image(picture(size))
    with torch.inference_mode():
        labels, probability = deployment.Deployed(model)(torch.from_numpy(picture(size))[None])
    # Labels can be compared exactly: the two best logits differ by at least 8e-5 everywhere, while
    # rounding changes probabilities by 2e-7 only.
    np.testing.assert_array_equal(labels[0].numpy(), expected.labels())
    np.testing.assert_allclose(
        probability[0].numpy(), expected.probabilities().max(axis=0), atol=1e-6
    )


def test_disagreement_is_an_error(model):
    def other(image):
        labels, probability = deployment.Deployed(model)(torch.from_numpy(image))
        return (labels + 1).numpy(), probability.numpy()

    with pytest.raises(InputError, match=r"0 of .* labels agree"):
        deployment.agreement(model, other)
    with pytest.raises(InputError, match="gives labels of shape"):
        deployment.agreement(model, lambda image: (image[:, 1:], image))
