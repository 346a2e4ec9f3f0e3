"""Download, verify and unpack a dataset; its folder appears only when it is complete.

The file given as --output marks its folder as complete. An archive that exists already is verified
and used instead of a download. Archives are removed after unpacking.
"""

import json
import os
import shutil
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import archives, download, voc_augmentation
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.downloads import archive_name


def main(argv: list[str] | None = None) -> int:
    """Write the folder around `--output`; exit code 0."""
    parser = cli.Parser("download_dataset", __doc__)
    cli.add_checksums(parser)
    parser.add_argument(
        "--archives", type=Path, required=True, help="folder for archives until they are unpacked"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file to write into the dataset's root"
    )
    options = parser.parse_args(argv)
    root = options.output.parent
    if root.is_dir() and any(root.iterdir()):
        raise InputError(
            f"{root}: this folder has files, but is not a complete download; to use the files, "
            "move the folder out of data/ and set dataset.root to its new path; otherwise remove it"
        )

    fetched = [fetch(source, options) for source in options.settings["archives"]]
    staging = root.with_name(f".{root.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    for source, (path, _) in zip(options.settings["archives"], fetched, strict=True):
        archives.unpack(
            path,
            staging / source.get("into", "."),
            strip=source.get("strip", ""),
            keep=source.get("keep", ()),
        )
    if sbd := options.settings.get("augment"):
        count = voc_augmentation.write_augmentation(staging, staging / sbd, staging)
        print(f"{count} images in the augmented training set")
    marker = {
        source["url"]: {"sha256": digest}
        for source, (_, digest) in zip(options.settings["archives"], fetched, strict=True)
    }
    (staging / options.output.name).write_text(json.dumps(marker, indent=2) + "\n")
    root.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staging, root)  # replaces an empty folder, if there is one
    for path, _ in fetched:
        path.unlink()
    return 0


def fetch(source: dict, options) -> tuple[Path, str]:
    """Download an archive unless it exists, and verify it; returns its path and its SHA-256."""
    path = options.archives / archive_name(source)
    source = download.pinned(source, options.checksums)
    get = download.verify if path.is_file() else download.download
    digest = get(source, path)
    download.pin(source, digest, path, options.checksums)
    return path, digest


if __name__ == "__main__":
    cli.run(main)
