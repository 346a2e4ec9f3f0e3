"""Place all masks on a two-dimensional map by their embeddings, for the gallery."""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import cluster_counts, mask_map
from workflow_scripts.maskdistill.files import cluster_files, shards


def main(argv: list[str] | None = None) -> int:
    """Write the map; exit code 0."""
    parser = cli.Parser("map_masks", __doc__)
    parser.add_input(
        "--embeddings",
        action="extend",
        nargs="+",
        required=True,
        help="shards of all splits; repeatable",
    )
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    settings = options.settings["clustering"]
    seed = options.settings["seeds"][0]

    keys, vectors = cluster_files.read_embeddings(options.embeddings)
    # Two splits may have the same image; each mask is placed once.
    numbers = list({key: number for number, key in enumerate(keys)}.values())
    numbers = [numbers[i] for i in mask_map.chosen(len(numbers), seed)]
    points = cluster_counts.prepare(vectors[numbers], standardize=settings["standardize"])
    found = mask_map.positions(points, metric=settings["metric"], seed=seed)
    rows = (
        {"image_id": image_id, "mask_id": mask_id, "x": x, "y": y}
        for (image_id, mask_id), (x, y) in zip((keys[i] for i in numbers), found, strict=True)
    )
    shards.write_table(options.output, "mask_map", rows, cli.record(options, "mask_map"))
    print(f"{len(numbers)} masks on the map")
    return 0


if __name__ == "__main__":
    cli.run(main)
