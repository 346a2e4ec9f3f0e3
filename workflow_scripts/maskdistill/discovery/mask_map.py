"""A two-dimensional map of the mask embeddings, to look at: t-SNE of their principal components."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from workflow_scripts.maskdistill.discovery import clustering

POINTS = 20_000  # most masks on the map; of more, a sample is drawn
COMPONENTS = 50
PERPLEXITY = 30


def chosen(count: int, seed: int) -> np.ndarray:
    """Numbers of the masks that are on the map, in order."""
    sample = clustering.sample(count, POINTS, seed)
    return np.arange(count) if sample is None else sample


def positions(embeddings: np.ndarray, *, metric: str, seed: int) -> np.ndarray:
    """Places on the map: masks with similar embeddings lie close together.

    Distances between groups that are far apart mean little.

    Args:
        embeddings: n x d, float32; standardized if the clustering is.
        metric: the metric of the clustering; for "cosine" the embeddings get unit length.
        seed: of t-SNE.

    Returns:
        n x 2 float32, each column from 0 to 1.
    """
    points = embeddings
    if metric == "cosine":
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.maximum(lengths, np.finfo(np.float32).tiny)
    # Without any difference between the embeddings, scikit-learn's t-SNE would end the process.
    if len(points) > 3 and np.ptp(points, axis=0).max() > 0:
        components = min(COMPONENTS, *points.shape)
        points = PCA(components, random_state=seed).fit_transform(points)
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        init = "pca" if components > 1 else "random"
        points = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(points)
    else:  # nothing to compare
        points = np.stack([np.arange(len(points)), np.zeros(len(points))], axis=1)
    low, high = points.min(axis=0, initial=np.inf), points.max(axis=0, initial=-np.inf)
    return ((points - low) / np.where(high > low, high - low, 1)).astype(np.float32)
