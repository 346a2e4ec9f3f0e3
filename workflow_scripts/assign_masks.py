"""Assign each mask of one shard of `val` to the nearest cluster of the training masks."""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import clustering
from workflow_scripts.maskdistill.files import cluster_files


def main(argv: list[str] | None = None) -> int:
    """Write the assignments of one shard; exit code 0."""
    parser = cli.Parser("assign_masks", __doc__)
    parser.add_input("--embeddings", required=True, help="the shard's embeddings")
    parser.add_input("--centroids", required=True, help="centroids that cluster_masks wrote")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)

    settings = options.settings["clustering"]
    keys, vectors, centroids = cluster_files.read_with_centroids(
        [options.embeddings], options.centroids, standardize=settings["standardize"]
    )
    clusters, distances = clustering.assign(vectors, centroids, metric=settings["metric"])
    metadata = cli.record(options, "assignments")
    cluster_files.write_assignments(options.output, keys, clusters, distances, metadata)
    return 0


if __name__ == "__main__":
    cli.run(main)
