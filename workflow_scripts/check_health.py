"""Check the health of a run (images, masks, clusters, losses) from its own files, without labels.

It writes its findings as JSON and prints them; for each problem it says what to do. Options that
take SPLIT or TRAINING are repeated, once for each split or training.
"""

import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.evaluation.step_titles import step_title
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.report import health


def main(argv: list[str] | None = None) -> int:
    """Write the findings and print them; exit code 0."""
    parser = cli.Parser("check_health", __doc__)
    for option, what in (
        ("--images", "manifest shards"),
        ("--masks", "initial masks"),
        ("--candidates", "candidates of Mask R-CNN"),
    ):
        parser.add_input(
            option,
            words=1,
            action="append",
            nargs="+",
            default=[],
            metavar=("SPLIT", "SHARD"),
            help=what,
        )
    parser.add_input(
        "--assignments", nargs="+", required=True, help="clusters of the training masks"
    )
    parser.add_input(
        "--history",
        words=1,
        action="append",
        nargs=2,
        default=[],
        metavar=("TRAINING", "FILE"),
        help="loss history of a training, CSV",
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)

    findings = health.check(
        images=dict(_groups(options.images)),
        masks=dict(_groups(options.masks)),
        assignments=options.assignments,
        candidates=dict(_groups(options.candidates)),
        histories={step_title(name): paths[0] for name, paths in _groups(options.history)},
        settings=options.settings,
    )
    content = {
        "provenance": cli.record(options, "health"),
        "findings": [finding.as_json() for finding in findings],
    }
    write_text(options.output, json.dumps(content, indent=1, allow_nan=False) + "\n")
    print("\n".join(health.lines(findings)))
    return 0


def _groups(values: list[list[str]]) -> list[tuple[str, list[Path]]]:
    return [(name, [Path(path) for path in paths]) for name, *paths in values]


if __name__ == "__main__":
    cli.run(main)
