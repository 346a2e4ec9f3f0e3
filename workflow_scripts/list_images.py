"""List the images of one shard: check that each can be read, and record its size.

An image that cannot be read has a row with the reason in `status`; later stages skip it. Files of a
folder that are not images, and pages and frames after the first, are counted by type in the log and
in the provenance of the manifest, under `skipped`. Each is counted in one shard only. Images of one
colour are used, and they are counted there under `one_colour`.
"""

import concurrent.futures
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import datasets, folders
from workflow_scripts.maskdistill.errors import InputError, printable
from workflow_scripts.maskdistill.files import images, shards
from workflow_scripts.maskdistill.progress import progress


def main(argv: list[str] | None = None) -> int:
    """Write the manifest of one shard; exit code 0."""
    parser = cli.Parser("list_images", __doc__)
    cli.add_root(parser)
    parser.add_argument("--split", required=True, help="a key of the dataset's `splits`")
    parser.add_argument("--shard", type=int, required=True, help="number of the shard, from 0")
    cli.add_max_rejected(parser)
    parser.add_argument("--workers", type=int, default=1, help="threads that open images")
    parser.add_argument(
        "--listing",
        default="",
        help="digest of the shard's files when the workflow was started; the program refuses to "
        "run if they have changed since then",
    )
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    settings = options.settings

    listing = datasets.list_split(settings["dataset"], options.root, options.split)
    listed, skipped = (
        datasets.images_of_shard(files, options.shard, settings["shards"]) for files in listing
    )

    flat: list[folders.FoundFile] = []
    digest = datasets.listing_digest(listed, options.root)
    if options.listing not in ("", digest, *datasets.WATCHED_ORIGINS):
        raise InputError(
            f"{options.root}: images of shard {options.shard} were added, removed or replaced "
            "since this run of the workflow was started; start snakemake again"
        )

    def probe(image: datasets.ListedImage) -> dict:
        row = {**image._asdict(), "shard": options.shard, "status": shards.OK}
        try:
            facts = images.probe_image(options.root / image.file_name, **settings["images"])
        except images.ImageRejected as rejection:
            return {**row, "status": str(rejection)}
        if facts.several:
            skipped.append(folders.FoundFile(image.file_name, folders.LATER_FRAMES))
        if facts.one_colour:
            flat.append(folders.FoundFile(image.file_name, "of one colour"))
        return {**row, "height": facts.height, "width": facts.width}

    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        rows = list(
            progress(pool.map(probe, listed), description="images", unit="image", total=len(listed))
        )
    for row in rows:
        if row["status"] != shards.OK:
            print(f"rejected {printable(row['file_name'])}: {row['status']}")
    skipped_types = folders.by_type(skipped)
    print(*folders.lines(skipped_types), sep="\n", end="\n" if skipped else "")
    one_colour = folders.by_type(flat)
    for found in one_colour.values():
        print(f"{found['count']:,} × of one colour (for example {printable(found['example'])})")
    # This check can end a run early; stages that merge the shards check the whole split later.
    what = f"shard {options.shard} of {options.root}"
    datasets.check_rejected(rows, options.max_rejected, what)
    counted = {"skipped": skipped_types, "one_colour": one_colour}
    record = cli.record(options, "images", listing=digest, **counted)
    shards.write_table(options.output, "images", rows, record)
    return 0


if __name__ == "__main__":
    cli.run(main)
