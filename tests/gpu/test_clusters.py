"""k-means by FAISS on a GPU; skipped if `faiss` was built without GPU support."""

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.needs("faiss")]
POINTS, WIDTH, CLUSTERS = 20_000, 384, 20


def test_k_means(device, judge, monkeypatch):
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    from workflow_scripts.maskdistill.discovery import clustering

    if device.type == "cuda" and not clustering._gpus():
        pytest.skip("this faiss has no GPU (faiss-cpu): clustering runs on the CPU here")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLUSTERS, WIDTH)).astype(np.float32)
    points = generator.standard_normal((POINTS, WIDTH), dtype=np.float32)
    points += centres[generator.integers(0, CLUSTERS, POINTS)]

    def fitted():
        centroids = clustering.fit(
            points, clusters=CLUSTERS, metric="cosine", iterations=50, redo=5, seed=0
        )
        return clustering.assign(points, centroids, metric="cosine")

    ours, our_distances = fitted()
    monkeypatch.setattr(clustering, "_gpus", lambda: 0)
    reference, distances = fitted()
    ratio = our_distances.sum(dtype=np.float64) / distances.sum(dtype=np.float64)
    judge("k-means: sum of distances over that of the CPU", ratio, at_most=1.01)
    table = np.zeros((CLUSTERS, CLUSTERS))
    np.add.at(table, (ours - 1, reference - 1), 1)
    matched = table[linear_sum_assignment(-table)].sum() / POINTS
    judge("k-means: share of points in the same cluster", matched, at_least=0.95)
