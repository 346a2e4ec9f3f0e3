"""Fetch the weights of a model of timm from the user's cache of timm's hub, or from the hub.

A download needs a network. The program records the SHA-256 of the file when it fetches it for the
first time, and later files must match it.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.data import timm_weights


def main(argv: list[str] | None = None) -> int:
    """Write the file; exit code 0."""
    parser = cli.Parser("fetch_weights", __doc__, required=False)
    cli.add_checksums(parser)
    parser.add_argument(
        "--backbone", required=True, help="timm's name of the model, for instance resnet50.a1_in1k"
    )
    parser.add_argument("--output", type=Path, required=True, help="file to write (.safetensors)")
    options = parser.parse_args(argv)

    digest = timm_weights.fetch(options.backbone, options.output, options.checksums)
    print(f"{options.output}: SHA-256 {digest}")
    return 0


if __name__ == "__main__":
    cli.run(main)
