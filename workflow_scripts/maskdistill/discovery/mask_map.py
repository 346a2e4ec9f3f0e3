"""A two-dimensional map of the mask embeddings for plots: t-SNE of their principal components."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from workflow_scripts.maskdistill.discovery import clustering

POINTS = 20_000  # the most masks on the map; of more, a random sample is taken
COMPONENTS = 50  # principal components that t-SNE gets
PERPLEXITY = 30  # of t-SNE: about how many neighbours of a point it considers


def chosen(count: int, seed: int) -> np.ndarray:
    """Indices of the masks that are on the map, in ascending order."""
    sample = clustering.sample(count, POINTS, seed)
    return np.arange(count) if sample is None else sample


def positions(embeddings: np.ndarray, *, metric: str, seed: int) -> np.ndarray:
    """Positions on the map: masks with similar embeddings lie close together.

    As t-SNE keeps neighbourhoods only, distances between separate groups mean little.

    Args:
        embeddings: n x d, float32; already standardized if the clustering standardizes them.
        metric: the metric of the clustering; for "cosine" the embeddings get unit length.
        seed: seed of t-SNE and of the principal components.

    Returns:
        n x 2 float32, each column from 0 to 1.
    """
    points = embeddings
    if metric == "cosine":
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.maximum(lengths, np.finfo(np.float32).tiny)
    # If all embeddings are equal, scikit-learn's t-SNE would crash the process.
    if len(points) > 3 and np.ptp(points, axis=0).max() > 0:
        components = min(COMPONENTS, *points.shape)
        points = PCA(components, random_state=seed).fit_transform(points)
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        init = "pca" if components > 1 else "random"
        points = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(points)
    else:  # too few or equal embeddings: put the points in a row
        points = np.stack([np.arange(len(points)), np.zeros(len(points))], axis=1)
    low, high = points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
    return ((points - low) / np.where(high > low, high - low, 1)).astype(np.float32)
