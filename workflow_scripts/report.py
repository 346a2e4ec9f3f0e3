"""Write the report of one dataset: a single HTML file with pictures, scores and settings.

Options that take SPLIT, STEP or SEED are repeated, once for each split, step or seed. The report
shows the steps in the order in which they are given.
"""

import argparse
import os
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.paper import comparison
from workflow_scripts.maskdistill.report import health
from workflow_scripts.maskdistill.report.document import render
from workflow_scripts.maskdistill.report.inputs import ReportInputs
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import frozen, verification


def main(argv: list[str] | None = None) -> int:
    """Write the report; exit code 0."""
    parser = cli.Parser("report", __doc__)
    cli.add_root(parser)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    parser.add_argument("--split", required=True, help="split of the example images")
    parser.add_input("--health", required=True, help="output of check_health")
    _add_shards(parser, "--images", "SPLIT", "manifest shards", required=True)
    _add_shards(parser, "--masks", "SPLIT", "masks", required=True)
    _add_shards(parser, "--candidates", "SPLIT", "candidates of Mask R-CNN")
    _add_shards(parser, "--confident", "SPLIT", "confident candidates")
    _add_shards(parser, "--step", "STEP", "label maps of --split", required=True)
    parser.add_input("--assignments", nargs="+", required=True, help="clusters of the masks")
    _add_files(parser, "--metrics", "SEED", "metrics.json of a seed, if the dataset has labels")
    parser.add_input("--summary", help="output of summarize")
    _add_files(parser, "--history", "STEP", "loss history of the step's training, CSV")
    parser.add_argument("--benchmarks", type=Path, help="folder of the dataset's benchmarks")
    parser.add_argument(
        "--paper-tables", type=Path, help=f"the paper's scores: {comparison.PAPER_TABLES}"
    )
    parser.add_argument("--git-revision", default="unknown", help="revision that the report names")
    parser.add_argument("--output", type=Path, required=True, help="the report, HTML")
    options = parser.parse_args(argv)
    if bool(options.metrics) != bool(options.summary):
        raise InputError("--metrics and --summary go together; give both or neither")

    page = render(
        ReportInputs(
            dataset=options.dataset,
            split=options.split,
            root=options.root,
            settings=options.settings,
            findings=health.read_findings(options.health),
            images=_by_name(options.images),
            masks=_by_name(options.masks),
            candidates=_by_name(options.candidates),
            confident=_by_name(options.confident),
            steps=_by_name(options.step),
            assignments=options.assignments,
            metrics={seed: _read(path) for seed, path in options.metrics},
            summary=_read(options.summary) if options.summary else None,
            histories={name: Path(path) for name, path in options.history},
            benchmarks=options.benchmarks,
            paper_tables=_read(options.paper_tables) if options.paper_tables else {},
            git_revision=options.git_revision,
            verdict=_verdict(options),
        )
    )
    write_text(options.output, provenance.embed_in_html(page, cli.record(options, "report")))
    return 0


def _verdict(options: argparse.Namespace) -> verification.Verdict | None:
    """Whether the report's inputs match the run's config; None if no run started this program."""
    run = os.environ.get(frozen.VARIABLE)
    if run is None:
        return None
    root = options.output.parent
    return verification.verify(
        verification.sources(map(Path, options.inputs), root),
        root,
        frozen.read(run),
        options.dataset,
        REPOSITORY,
    )


def _add_shards(
    parser: cli.Parser, option: str, name: str, what: str, required: bool = False
) -> None:
    parser.add_input(
        option,
        words=1,
        action="append",
        nargs="+",
        default=None if required else [],
        required=required,
        metavar=(name, "SHARD"),
        help=what,
    )


def _add_files(parser: cli.Parser, option: str, name: str, what: str) -> None:
    parser.add_input(
        option, words=1, action="append", nargs=2, default=[], metavar=(name, "FILE"), help=what
    )


def _by_name(groups: list[list[str]]) -> dict[str, list[Path]]:
    return {name: [Path(path) for path in paths] for name, *paths in groups}


def _read(path: str | Path) -> dict:
    return read_json(path, remedy="run the workflow again")


if __name__ == "__main__":
    cli.run(main)
