"""Write one table or figure of the paper with the run's own numbers.

Each number is a mean over seeds, with standard deviation and number of seeds. Options that take
VARIANT are repeated for each variant, with one file for each seed. A variant is the run with other
settings; the variant `main` is the run itself.
"""

import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.csv_files import write_csv
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.paper import comparison, figures, tables
from workflow_scripts.maskdistill.paper.items import TITLES
from workflow_scripts.maskdistill.runs.variants import MAIN


def main(argv: list[str] | None = None) -> int:
    """Write the tables and, for a figure, its charts; exit code 0."""
    parser = cli.Parser("tabulate_ablation", __doc__)
    parser.add_argument(
        "--item", choices=list(TITLES), required=True, help="table or figure to write"
    )
    _add(parser, "--metrics", "VARIANT", "metrics.json of every seed")
    _add(parser, "--instances", "VARIANT", "instances.json of every seed")
    _add(parser, "--linear-probe", "VARIANT", "linear_probe.json of every seed")
    parser.add_argument(
        "--sweep",
        action="append",
        nargs=2,
        default=[],
        metavar=("VALUE", "VARIANT"),
        help="for a figure: a value on the x axis and its variant; repeat in ascending order",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", required=True, help="seeds, in the order of the files"
    )
    parser.add_argument(
        "--paper-tables", type=Path, help=f"the paper's scores: {comparison.PAPER_TABLES}"
    )
    parser.add_argument("--json", type=Path, required=True, help="tables to write, JSON")
    parser.add_argument("--csv", type=Path, required=True, help="the same as CSV")
    parser.add_argument(
        "--overclustering-csv",
        type=Path,
        help="CSV file for the scores with majority matching, which cannot be compared with those "
        "with Hungarian matching",
    )
    parser.add_argument("--svg", type=Path, help="for a figure: the charts, SVG")
    options = parser.parse_args(argv)
    if bool(options.svg) != bool(options.sweep):
        raise InputError("--svg and --sweep go together; give both for a figure, else neither")

    summaries = tables.read_summaries(
        options.metrics, options.instances, options.linear_probe, options.seeds
    )
    paper = {}
    if options.paper_tables:
        paper = read_json(options.paper_tables, remedy="restore it from the repository")
    found = tables.tables(
        options.item,
        summaries,
        {float(value): name for value, name in options.sweep},
        paper,
        comparison.paper_dataset(options.settings),
    )
    first, overclustering = tables.split_overclustering(found)
    if overclustering and not options.overclustering_csv:
        raise InputError(
            f"{options.item} has scores with Hungarian and scores with majority matching; name a "
            "file for the latter with --overclustering-csv"
        )
    obstacles = comparison.obstacles(
        options.settings, summaries[MAIN]
    ) or comparison.instance_obstacles(options.settings, summaries[MAIN])
    record = cli.record(options, "tabulate_ablation")
    for path, part in ((options.csv, first), (options.overclustering_csv, overclustering)):
        if path:
            rows = tables.csv_rows(part, comparable=not obstacles)
            write_csv(path, rows, tables.CSV_COLUMNS, record)
    if options.svg:
        write_text(options.svg, figures.figure(options.item, found))
        provenance.write_record(options.svg, record)
    result = {
        "provenance": record,
        "item": options.item,
        "title": TITLES[options.item],
        "seeds": options.seeds,
        "obstacles": obstacles,
        "tables": found,
    }
    write_text(options.json, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


def _add(parser: cli.Parser, option: str, name: str, what: str) -> None:
    parser.add_input(
        option, words=1, action="append", nargs="+", default=[], metavar=(name, "FILE"), help=what
    )


if __name__ == "__main__":
    cli.run(main)
