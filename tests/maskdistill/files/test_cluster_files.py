import numpy as np

from workflow_scripts.maskdistill.files import cluster_files, shards


def test_embeddings_and_assignments(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 6)).astype(np.float32)
    keys = [(1, 0), (1, 1), (7, 0), (3, 0), (3, 1)]
    for name, part in (("a", slice(0, 2)), ("none", slice(0, 0)), ("b", slice(2, 5))):
        rows = (
            {"image_id": i, "mask_id": m, "embedding": vector}
            for (i, m), vector in zip(keys[part], vectors[part], strict=True)
        )
        shards.write_table(tmp_path / name, "mask_embeddings", rows, {}, embedding_size=6)
    found, read = cluster_files.read_embeddings([tmp_path / name for name in ("a", "none", "b")])
    assert found == keys
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, vectors)
    found, read = cluster_files.read_embeddings([tmp_path / "none"])
    assert found == []
    assert read.shape == (0, 6)
    paths = [tmp_path / name for name in ("a", "none", "b")]
    np.testing.assert_array_equal(cluster_files.read_vectors(paths), vectors)
    chosen = np.array([1, 2, 4])
    np.testing.assert_array_equal(cluster_files.read_vectors(paths, chosen), vectors[chosen])
    assert cluster_files.read_vectors([tmp_path / "none"]).shape == (0, 6)

    clusters, distances = np.array([3, 1, 2, 1, 1], np.int32), rng.random(5).astype(np.float32)
    cluster_files.write_assignments(tmp_path / "c", keys, clusters, distances, {})
    table = shards.read_table([tmp_path / "c"]).to_pydict()
    assert list(zip(table["image_id"], table["mask_id"], strict=True)) == keys
    assert table["cluster"] == clusters.tolist()
    assert table["distance"] == distances.tolist()
    assert cluster_files.read_classes(tmp_path / "c", None) == dict(
        zip(keys, clusters, strict=True)
    )
    assert cluster_files.read_classes(tmp_path / "c", [2, 0, 1], {1: "", 3: ""}) == {
        (1, 0): 1,
        (1, 1): 2,
        (3, 0): 2,
        (3, 1): 2,
    }


def test_embeddings_are_compared_with_centroids_as_they_were_clustered(tmp_path):
    vectors = np.array([[2, 4], [6, 8]], np.float32)
    rows = [{"image_id": i, "mask_id": 0, "embedding": v} for i, v in enumerate(vectors)]
    shards.write_table(tmp_path / "e", "mask_embeddings", rows, {}, embedding_size=2)
    centroids = [{"cluster": 1, "size": 2, "centroid": np.array([1, 1], np.float32)}]
    metadata = {"standard_deviation": [2.0, 4.0]}
    shards.write_table(tmp_path / "c", "centroids", centroids, metadata, embedding_size=2)
    for standardize, expected in ((False, vectors), (True, vectors / [2, 4])):
        keys, found, read = cluster_files.read_with_centroids(
            [tmp_path / "e"], tmp_path / "c", standardize=standardize
        )
        assert keys == [(0, 0), (1, 0)]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(read, [[1, 1]])
