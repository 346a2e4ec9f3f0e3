"""Hand-crafted, rotation-invariant descriptors of the shape and the texture of a masked object.

The demo calls its generated objects things. The descriptors need neither labels nor training;
`pretraining` uses them as targets.
"""

import numpy as np
from scipy import ndimage

_DIRECTIONS = np.arange(24) * np.pi / 24
_LAGS = (2, 3, 4, 5, 6, 8, 10, 12)  # pixels
_RADII = (1.5, 3.0, 5.0)  # pixels


def describe(image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Describe the thing inside a mask.

    Args:
        image: H x W, float; one channel.
        mask: H x W, bool, not empty.

    Returns:
        Three vectors: local binary patterns, autocorrelation, outline.
    """
    smooth = ndimage.gaussian_filter(image, 0.7)
    patterns = np.concatenate([local_binary_patterns(smooth, mask, r) for r in _RADII])
    return [patterns, autocorrelation(image, mask), outline(mask)]


def local_binary_patterns(image: np.ndarray, mask: np.ndarray, radius: float) -> np.ndarray:
    """Histogram of the rotation-invariant uniform patterns (Ojala et al., 2002).

    Returns:
        10 shares of pixels: with 0 to 8 consecutive brighter neighbours, and with other patterns.
    """
    inner = ndimage.binary_erosion(mask, iterations=max(1, int(radius)))
    rows, columns = np.nonzero(inner if inner.sum() >= 20 else mask)
    neighbours = np.stack(
        [
            ndimage.map_coordinates(
                image,
                [rows + radius * np.sin(turn), columns + radius * np.cos(turn)],
                order=1,
                mode="nearest",
            )
            for turn in np.arange(8) * np.pi / 4
        ]
    )
    brighter = (neighbours > image[rows, columns] + 1e-6).astype(int)
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(axis=0)
    pattern = np.where(changes <= 2, brighter.sum(axis=0), 9)
    return np.bincount(pattern, minlength=10) / len(rows)


def autocorrelation(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Correlation of the texture with itself, shifted by some pixels in any direction.

    Returns:
        For each of 8 lags the mean, greatest, least and standard deviation over directions.
    """
    inside = mask.astype(float)
    texture = (image - image[mask].mean()) * inside
    variance = (texture[mask] ** 2).mean() + 1e-6
    size = [2 * side for side in image.shape]

    def correlate(values: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.abs(np.fft.rfft2(values, s=size)) ** 2, s=size)

    # The sum over fewer than 20 pairs of pixels is divided by 20, as such a mean is unreliable.
    correlation = correlate(texture) / np.maximum(correlate(inside), 20) / variance
    correlation = np.fft.fftshift(correlation)
    center = [side // 2 for side in correlation.shape]
    rows = []
    for lag in _LAGS:
        at = [center[0] + lag * np.sin(_DIRECTIONS), center[1] + lag * np.cos(_DIRECTIONS)]
        values = ndimage.map_coordinates(correlation, at, order=1)
        rows.append([values.mean(), values.max(), values.min(), values.std()])
    return np.concatenate(rows)


def outline(mask: np.ndarray) -> np.ndarray:
    """Magnitudes of the first 8 harmonics of the outline's distance from the centre of the mask."""
    rows, columns = np.nonzero(mask)
    dy, dx = rows - rows.mean(), columns - columns.mean()
    sector = ((np.arctan2(dy, dx) + np.pi) / (2 * np.pi) * 36).astype(int) % 36
    reach = np.zeros(36)
    np.maximum.at(reach, sector, np.hypot(dy, dx))
    return np.abs(np.fft.rfft(reach / (reach.mean() + 1e-6)))[1:9] / 36
