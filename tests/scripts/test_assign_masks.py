import json

import numpy as np

from workflow_scripts import assign_masks
from workflow_scripts.maskdistill.files import shards


def call(tmp_path, vectors, centroids, metric):
    rows = (
        {"image_id": n, "mask_id": 0, "embedding": np.float32(v)} for n, v in enumerate(vectors)
    )
    shards.write_table(tmp_path / "a", "mask_embeddings", rows, {}, embedding_size=2)
    rows = (
        {"cluster": n, "size": 1, "centroid": np.float32(v)} for n, v in enumerate(centroids, 1)
    )
    shards.write_table(tmp_path / "c", "centroids", rows, {}, embedding_size=2)
    settings = {"clustering": {"metric": metric, "standardize": False}}
    options = [f"--settings={json.dumps(settings)}"]
    options += [f"--embeddings={tmp_path / 'a'}", f"--centroids={tmp_path / 'c'}"]
    assert assign_masks.main([*options, f"--output={tmp_path / 'out'}"]) == 0
    rows = list(shards.read_rows(tmp_path / "out"))
    assert [row["image_id"] for row in rows] == list(range(len(rows)))
    return [row["cluster"] for row in rows], [row["distance"] for row in rows]


def test_the_metric_decides(tmp_path):
    vectors, centroids = [[9, 1], [1, 1.5]], [[1, 0], [8, 8]]
    clusters, distances = call(tmp_path, vectors, centroids, "cosine")
    assert clusters == [1, 2]
    expected = [1 - 9 / np.hypot(9, 1), 1 - 2.5 / np.hypot(1, 1.5) / np.sqrt(2)]
    np.testing.assert_allclose(distances, expected, atol=1e-5)
    clusters, distances = call(tmp_path, vectors, centroids, "euclidean")
    assert clusters == [2, 1]
    np.testing.assert_allclose(distances, [np.hypot(1, 7), 1.5], atol=1e-4)


def test_a_shard_without_masks(tmp_path):
    assert call(tmp_path, [], [[1, 0]], "cosine") == ([], [])
