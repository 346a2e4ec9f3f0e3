"""Cluster the embeddings of the training masks into pseudo-classes with FAISS's k-means."""

from pathlib import Path

import numpy as np

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.discovery import clustering
from workflow_scripts.maskdistill.errors import report_out_of_memory
from workflow_scripts.maskdistill.files import cluster_files, shards

ROWS_PER_GROUP = 16_384  # rows of assignments are small, and a reader needs all of them at once


@report_out_of_memory("lower clustering.max_points")
def main(argv: list[str] | None = None) -> int:
    """Write assignments and centroids; exit code 0."""
    parser = cli.Parser("cluster_masks", __doc__)
    parser.add_input("--embeddings", nargs="+", required=True, help="shards to cluster")
    parser.add_input(
        "--support",
        action="extend",
        nargs="+",
        default=[],
        help="embeddings of other datasets, which k-means uses as additional points; repeatable",
    )
    parser.add_input(
        "--support-images",
        words=2,
        action="append",
        nargs="+",
        default=[],
        metavar=("SHARE", "COUNT SHARD"),
        help="for one dataset of --support: tolerated share and number of unusable images, and its "
        "manifests; repeatable",
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of samples and k-means")
    parser.add_argument("--assignments", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--centroids", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    settings = options.settings["clustering"]

    for share, count, *manifests in options.support_images:
        rows = shards.read_table(manifests, ["file_name", "status"]).to_pylist()
        datasets.check_rejected(rows, (float(share), float(count)), str(Path(manifests[0]).parent))

    paths = [*options.embeddings, *options.support]
    count = sum(map(shards.count_rows, paths))
    points = cluster_files.read_vectors(
        paths, clustering.sample(count, settings["max_points"], options.seed)
    )
    scale = np.ones(1, np.float32)
    extra = {}
    if settings["standardize"]:
        scale = clustering.standard_deviation(points)
        points /= scale
        extra["standard_deviation"] = scale.tolist()
    chosen = {name: settings[name] for name in ("clusters", "metric", "iterations", "redo")}
    centroids = clustering.fit(points, **chosen, seed=options.seed)
    del points

    # assign_masks reads the standard deviation from this metadata.
    metadata = cli.record(options, "clusters", seed=options.seed, **extra)
    sizes = np.zeros(len(centroids), np.int64)
    with shards.shard_writer(
        options.assignments, "assignments", metadata, rows_per_group=ROWS_PER_GROUP
    ) as writer:
        for path in options.embeddings:
            keys, vectors = cluster_files.read_embeddings([path])
            clusters, distances = clustering.assign(
                vectors / scale, centroids, metric=settings["metric"]
            )
            sizes += np.bincount(clusters, minlength=len(centroids) + 1)[1:]
            for row in cluster_files.assignment_rows(keys, clusters, distances):
                writer.write(row)
    print(
        f"{sizes.sum()} masks in {len(centroids)} clusters of {sizes.min()} to {sizes.max()} masks"
    )
    shards.write_table(
        options.centroids,
        "centroids",
        (
            {"cluster": cluster, "size": int(size), "centroid": centroid}
            for cluster, (size, centroid) in enumerate(zip(sizes, centroids, strict=True), start=1)
        ),
        metadata,
        embedding_size=centroids.shape[1],
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
