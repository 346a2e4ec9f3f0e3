"""Draw a contact sheet of every cluster, and write a template of the file that names clusters.

A sheet shows the masks that are nearest to the cluster's centroid, and the masks that are nearly as
close to the centroid of another cluster.
"""

from pathlib import Path

from PIL import Image

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import clustering
from workflow_scripts.maskdistill.files import atomic, cluster_files
from workflow_scripts.maskdistill.pictures import contact_sheets, crops


def main(argv: list[str] | None = None) -> int:
    """Write the folder of one seed; exit code 0."""
    parser = cli.Parser("draw_contact_sheets", __doc__)
    cli.add_root(parser)
    parser.add_input("--images", nargs="+", required=True, help="manifests")
    parser.add_input("--masks", nargs="+", required=True, help="their masks")
    parser.add_input("--embeddings", nargs="+", required=True, help="embeddings of these masks")
    parser.add_input("--assignments", required=True, help="assignments that cluster_masks wrote")
    parser.add_input("--centroids", required=True, help="centroids that cluster_masks wrote")
    parser.add_argument("--seed", type=int, required=True, help="seed of the clustering")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    settings = options.settings
    count = settings["report"]["crops"]

    metric = settings["clustering"]["metric"]
    keys, vectors, centroids = cluster_files.read_with_centroids(
        options.embeddings,
        options.centroids,
        standardize=settings["clustering"]["standardize"],
    )
    cluster_of = cluster_files.read_classes(options.assignments, None)
    _, distances = clustering.assign(vectors, centroids, metric=metric)
    margins = None
    if len(centroids) > 1:
        margins = clustering.margins(vectors, centroids, metric=metric)

    sizes, chosen = [], {}
    for cluster in range(1, len(centroids) + 1):
        members = [i for i, key in enumerate(keys) if cluster_of[key] == cluster]
        own = [keys[i] for i in members]
        sizes.append(len(members))
        chosen[cluster] = {"Nearest to the centroid": distances[members]}
        if margins is not None:
            chosen[cluster]["Nearly as near to another cluster"] = margins[members]
        chosen[cluster] = {
            heading: crops.nearest(own, values, count)
            for heading, values in chosen[cluster].items()
        }
    wanted = {key for sections in chosen.values() for found in sections.values() for key in found}
    pictures = crops.read_crops(
        wanted, options.images, options.masks, options.root, contact_sheets.CROP
    )

    record = cli.record(options, "contact_sheets", seed=options.seed)
    with atomic.atomic_folder(options.output, record) as folder:
        for cluster, sections in chosen.items():
            picture = contact_sheets.sheet(
                {heading: [pictures[key] for key in found] for heading, found in sections.items()},
                f"Cluster {cluster}: {sizes[cluster - 1]} masks",
            )
            Image.fromarray(picture).save(folder / f"cluster_{cluster:03d}.png")
        digest = cluster_files.assignments_digest(options.assignments)
        text = contact_sheets.template(options.seed, digest, sizes)
        (folder / "names.yaml").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    cli.run(main)
