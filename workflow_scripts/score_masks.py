"""Turn the initial masks of one shard into candidates, with the quality of a mask as its score.

They replace the candidates of Mask R-CNN if `mask_rcnn.enabled` is false.
"""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.discovery import mask_candidates


def main(argv: list[str] | None = None) -> int:
    """Write the candidates of one shard; exit code 0."""
    parser = cli.Parser("score_masks", __doc__)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--masks", required=True, help="the shard's masks")
    parser.add_input("--assignments", required=True, help="assignments that include these masks")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    options = parser.parse_args(argv)
    mask_candidates.write(
        options.output,
        options.images,
        options.masks,
        options.assignments,
        classes=options.settings["curation"]["classes"],
        metadata=cli.record(options, "candidates"),
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
