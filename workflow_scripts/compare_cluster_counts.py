"""Compare numbers of clusters, from the embeddings of the training masks, and suggest some.

It writes a page with a chart and with contact sheets of the clusters for each suggested number, and
a CSV table of all numbers.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import cluster_counts
from workflow_scripts.maskdistill.files import atomic, cluster_files, provenance
from workflow_scripts.maskdistill.report import suggested_clusters


def main(argv: list[str] | None = None) -> int:
    """Write the folder and print the suggestions; exit code 0."""
    parser = cli.Parser("compare_cluster_counts", __doc__)
    cli.add_root(parser)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    parser.add_input("--images", nargs="+", required=True, help="manifest shards")
    parser.add_input("--masks", nargs="+", required=True, help="their masks")
    parser.add_input("--embeddings", nargs="+", required=True, help="embeddings of these masks")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    settings = options.settings["clustering"]
    seed = options.settings["seeds"][0]

    keys, vectors = cluster_files.read_embeddings(options.embeddings)
    points = cluster_counts.prepare(vectors, standardize=settings["standardize"])
    metric = settings["metric"]
    found = cluster_counts.compare(points, settings["suggestions"], metric=metric, seed=seed)
    suggested = cluster_counts.suggest(found)
    sheets = {
        clusters: suggested_clusters.sheet(
            keys,
            *cluster_counts.example(points, clusters, metric=metric, seed=seed),
            images=options.images,
            masks=options.masks,
            root=options.root,
            crops_shown=options.settings["report"]["crops"],
        )
        for clusters in suggested
    }
    record = cli.record(options, "suggested_clusters", seed=seed)
    with atomic.atomic_folder(options.output, record) as folder:
        page = suggested_clusters.page(options.dataset, len(points), found, sheets)
        (folder / "index.html").write_text(page, encoding="utf-8")
        suggested_clusters.table(found).to_csv(folder / "counts.csv", index=False)
        provenance.write_record(folder / "counts.csv", record)
    print(
        f"Suggested for {len(points)} masks: {' or '.join(map(str, suggested))} clusters. To see "
        f"them, open {options.output / 'index.html'}"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
