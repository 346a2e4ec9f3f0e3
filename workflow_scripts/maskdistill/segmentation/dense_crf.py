"""Mean-field inference in a fully connected CRF (Krähenbühl and Koltun, 2011)."""

import numpy as np
import pydensecrf.densecrf

from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings

# Lower bound on probabilities, so that their logarithm is finite.
_FLOOR = 1e-5


def refine(probabilities: np.ndarray, image: np.ndarray, settings: CRFSettings) -> np.ndarray:
    """Mean-field inference in the CRF of one image.

    Args:
        probabilities: classes x H x W, softmax output.
        image: H x W x 3, RGB, uint8.

    Returns:
        classes x H x W, float32, the refined probabilities.

    Raises:
        ValueError: the image is not uint8, or image and probabilities have different sizes.
    """
    height, width = probabilities.shape[1:]
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 {(height, width, 3)}, not {image.dtype} {image.shape}"
        )
    # Improbable labels are left out, because the time grows with the number of labels.
    kept = probabilities.max(axis=(1, 2)) >= settings.min_probability
    kept[np.unique(probabilities.argmax(axis=0))] = True
    labels = np.flatnonzero(kept)
    model = pydensecrf.densecrf.DenseCRF2D(width, height, len(labels))
    # Computed in place, because these arrays are the largest; `setUnaryEnergy` copies them.
    unary = np.array(probabilities[labels], dtype=np.float32, order="C")
    np.clip(unary, _FLOOR, 1.0, out=unary)
    np.negative(np.log(unary, out=unary), out=unary)
    model.setUnaryEnergy(unary.reshape(len(labels), -1))
    del unary
    model.addPairwiseGaussian(sxy=settings.gaussian_sigma, compat=settings.gaussian_weight)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sigma_xy,
        srgb=settings.bilateral_sigma_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral_weight,
    )
    inferred = np.asarray(model.inference(settings.iterations), dtype=np.float32)
    del model
    refined = np.zeros(probabilities.shape, dtype=np.float32)
    refined[labels] = inferred.reshape(len(labels), height, width)
    return refined
