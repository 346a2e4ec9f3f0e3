import json

import numpy as np
import pytest

from workflow_scripts import assign_masks, cluster_masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards

CLUSTERING = {
    "clusters": 3,
    "metric": "cosine",
    "standardize": False,
    "iterations": 20,
    "redo": 2,
    "max_points": 1000,
    "support": [],
}
CENTRES = 5 * np.eye(8)[:3]


def write_embeddings(path, truth, first_id=0, seed=0):
    rng = np.random.default_rng(seed)
    vectors = CENTRES[truth] + 0.1 * rng.normal(size=(len(truth), 8))
    rows = (
        {"image_id": first_id + n, "mask_id": n % 2, "embedding": vector.astype(np.float32)}
        for n, vector in enumerate(vectors)
    )
    shards.write_table(path, "mask_embeddings", rows, {}, embedding_size=8)
    return vectors.astype(np.float32)


def cluster(tmp_path, *extra, seed=0, paths=("a", "b"), **changes):
    options = [f"--settings={json.dumps({'clustering': {**CLUSTERING, **changes}})}"]
    options += ["--embeddings", *(str(tmp_path / path) for path in paths), f"--seed={seed}"]
    outputs = [tmp_path / "assignments.parquet", tmp_path / "centroids.parquet"]
    options += [f"--assignments={outputs[0]}", f"--centroids={outputs[1]}", *extra]
    assert cluster_masks.main(options) == 0
    return [list(shards.read_rows(path)) for path in outputs]


@pytest.fixture
def truth(tmp_path):
    first, second = [2, 0, 0, 1, 2, 0], [0, 1, 1, 2, 0]  # sizes: 5, 3, 3
    write_embeddings(tmp_path / "a", first)
    write_embeddings(tmp_path / "b", second, first_id=100, seed=1)
    return first + second


def test_assignments_and_centroids(tmp_path, truth, capsys):
    assignments, centroids = cluster(tmp_path)
    assert [row["image_id"] for row in assignments] == [*range(6), *range(100, 105)]
    assert len({(t, r["cluster"]) for t, r in zip(truth, assignments, strict=True)}) == 3
    assert {r["cluster"] for t, r in zip(truth, assignments, strict=True) if t == 0} == {1}
    assert [row["cluster"] for row in centroids] == [1, 2, 3]
    assert [row["size"] for row in centroids] == [5, 3, 3]
    assert all(0 <= row["distance"] < 0.01 for row in assignments)
    assert "11 masks in 3 clusters of 3 to 5" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_result(tmp_path, truth):
    first = cluster(tmp_path, seed=5)
    again = cluster(tmp_path, seed=5)
    assert first[0] == again[0]
    metadata = shards.read_metadata(tmp_path / "assignments.parquet")
    assert metadata["seed"] == 5
    assert metadata["settings"]["clustering"]["clusters"] == 3


def test_support_places_centroids_and_gets_no_assignment(tmp_path, truth):
    own = write_embeddings(tmp_path / "own", [0, 0, 1], seed=2)
    write_embeddings(tmp_path / "help", [2] * 10, first_id=500, seed=3)
    assignments, centroids = cluster(
        tmp_path, "--support", str(tmp_path / "help"), paths=["own"], metric="euclidean"
    )
    assert [row["image_id"] for row in assignments] == [0, 1, 2]
    assert sorted(row["size"] for row in centroids) == [0, 1, 2]
    unused = next(row["centroid"] for row in centroids if row["size"] == 0)
    np.testing.assert_allclose(unused, CENTRES[2], atol=0.2)
    nearest = np.linalg.norm(own[:, None] - np.stack([c["centroid"] for c in centroids]), axis=2)
    np.testing.assert_allclose(
        [row["distance"] for row in assignments], nearest.min(axis=1), atol=1e-3
    )


def test_a_sample_places_the_centroids_of_all(tmp_path, truth):
    assignments, centroids = cluster(tmp_path, max_points=9)
    assert len(assignments) == 11
    assert sum(row["size"] for row in centroids) == 11
    whole = cluster(tmp_path)[1]
    assert any(
        (a["centroid"] != b["centroid"]).any() for a, b in zip(whole, centroids, strict=True)
    )


def test_too_few_masks(tmp_path, truth):
    with pytest.raises(InputError, match="11 masks cannot form 12 clusters"):
        cluster(tmp_path, clusters=12)
    assert not (tmp_path / "assignments.parquet").exists()


def test_standardized_dimensions_weigh_alike(tmp_path):
    """Only the second dimension separates the clusters; the first has noise of larger values."""
    truth = np.array([0, 1] * 20)
    noise = np.random.default_rng(0).normal(size=40)
    vectors = np.stack([100 * noise, 2 * truth - 1], axis=1).astype(np.float32)
    rows = ({"image_id": n, "mask_id": 0, "embedding": v} for n, v in enumerate(vectors))
    shards.write_table(tmp_path / "a", "mask_embeddings", rows, {}, embedding_size=2)

    def agreement(**options):
        assignments, _ = cluster(tmp_path, paths=["a"], clusters=2, **options)
        found = np.array([row["cluster"] for row in assignments]) - 1
        return max((found == truth).mean(), (found != truth).mean())

    assert agreement(metric="euclidean") < 0.8
    assert agreement(metric="cosine") < 0.8
    assert agreement(metric="cosine", standardize=True) > 0.8


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_assigning_the_training_masks_again_gives_the_same(tmp_path, truth, metric, standardize):
    assignments, _ = cluster(tmp_path, metric=metric, standardize=standardize)
    own = {"clustering": {"metric": metric, "standardize": standardize}}
    found = []
    for name in ("a", "b"):
        options = [f"--settings={json.dumps(own)}"]
        options += [f"--embeddings={tmp_path / name}", f"--output={tmp_path / 'out'}"]
        options += [f"--centroids={tmp_path / 'centroids.parquet'}"]
        assert assign_masks.main(options) == 0
        found += shards.read_rows(tmp_path / "out")
    assert [{**row, "distance": 0} for row in found] == [{**r, "distance": 0} for r in assignments]
    np.testing.assert_allclose(
        [row["distance"] for row in found], [r["distance"] for r in assignments], atol=1e-3
    )


def test_images_of_the_support_that_cannot_be_used(tmp_path, truth, write_manifest):
    """Unusable images are counted over all shards of a support dataset, with its own limits."""
    write_embeddings(tmp_path / "s", [0, 1, 2], first_id=900)
    for shard in range(2):
        images = {shard: (f"{shard}.jpg", None, None, "empty file"), 9 + shard: ("x.jpg", 8, 8)}
        write_manifest(tmp_path / f"m{shard}", images)
    manifests = [str(tmp_path / "m0"), str(tmp_path / "m1")]
    support = [f"--support={tmp_path / 's'}", "--support-images"]
    cluster(
        tmp_path, *support, "0.01", "1", manifests[0], "--support-images", "0.01", "2", *manifests
    )
    with pytest.raises(InputError, match=r"2 of 4 images .*0\.jpg: empty file; 1\.jpg: empty"):
        cluster(tmp_path, *support, "0.01", "1", *manifests)
