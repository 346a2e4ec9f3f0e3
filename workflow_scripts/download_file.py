"""Download and verify one file, for instance weights; an interrupted download is continued.

If no SHA-256 is published, the program records the SHA-256 of the first download, and every later
download must match it.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import download


def main(argv: list[str] | None = None) -> int:
    """Write the file; exit code 0."""
    parser = cli.Parser("download_file", __doc__)
    cli.add_checksums(parser)
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    options = parser.parse_args(argv)

    source = download.pinned(options.settings, options.checksums)
    digest = download.download(source, options.output)
    download.pin(source, digest, options.output, options.checksums)
    print(f"{options.output}: SHA-256 {digest}")
    return 0


if __name__ == "__main__":
    cli.run(main)
