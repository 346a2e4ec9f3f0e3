"""Write one table or figure of the paper with our numbers: mean, sd and n over seeds.

Files are given by variant, one a seed; the variant `main` is the run itself.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import atomic_path, write_text
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.paper import ablations, comparison
from workflow_scripts.maskdistill.runs.variants import MAIN
from workflow_scripts.summarize import read_all, summarize, summarize_instances

COLUMNS = ["table", "matching", "split", "images", "matched_on", "row", "column"]
COLUMNS += ["mean", "sd", "n", "paper", "difference", "comparable"]


def main(argv: list[str] | None = None) -> int:
    """Run the rule; see the module."""
    arguments = cli.Parser("tabulate_ablation", __doc__)
    arguments.add_argument(
        "--item", choices=list(ablations.TITLES), required=True, help="table or figure to write"
    )
    _add(arguments, "--metrics", "VARIANT", "metrics.json of every seed")
    _add(arguments, "--instances", "VARIANT", "instances.json of every seed")
    _add(arguments, "--linear-probes", "VARIANT", "linear_probe.json of every seed")
    arguments.add_argument(
        "--sweep",
        action="append",
        nargs=2,
        default=[],
        metavar=("VALUE", "VARIANT"),
        help="of a figure: a value and its variant; repeat in rising order",
    )
    arguments.add_argument(
        "--seeds", type=int, nargs="+", required=True, help="seeds of the files, in their order"
    )
    arguments.add_argument("--paper-tables", type=Path, help=comparison.PAPER_TABLES)
    arguments.add_argument("--json", type=Path, required=True, help="tables to write, JSON")
    arguments.add_argument("--csv", type=Path, required=True, help="the same as CSV")
    arguments.add_argument(
        "--overclustering-csv",
        type=Path,
        help="CSV for numbers of majority matching, which do not compare with Hungarian ones",
    )
    arguments.add_argument("--svg", type=Path, help="of a figure: the charts, SVG")
    options = arguments.parse_args(argv)
    if bool(options.svg) != bool(options.sweep):
        raise InputError("--svg and --sweep go together; give both for a figure, else neither")

    summaries = _summaries(options)
    if MAIN not in summaries or "steps" not in summaries[MAIN]:
        raise InputError(f"--metrics {MAIN}: the metrics of the run itself are missing")
    paper = {}
    if options.paper_tables:
        paper = read_json(options.paper_tables, remedy="restore it from the repository")
    tables = ablations.tables(
        options.item,
        summaries,
        {float(value): name for value, name in options.sweep},
        paper,
        comparison.paper_dataset(options.settings),
    )
    comparable, overclustering = ablations.split_overclustering(tables)
    if overclustering and not options.overclustering_csv:
        raise InputError(
            f"{options.item}: numbers of Hungarian and of majority matching; give "
            "--overclustering-csv for the latter"
        )
    obstacles = comparison.obstacles(
        options.settings, summaries[MAIN]
    ) or comparison.instance_obstacles(options.settings, summaries[MAIN])
    record = cli.record(options, "tabulate_ablation")
    _write_csv(options.csv, comparable, obstacles, record)
    if options.overclustering_csv:
        _write_csv(options.overclustering_csv, overclustering, obstacles, record)
    if options.svg:
        write_text(options.svg, ablations.figure(options.item, tables))
        provenance.write_beside(options.svg, record)
    result = {
        "provenance": record,
        "item": options.item,
        "title": ablations.TITLES[options.item],
        "seeds": options.seeds,
        "obstacles": obstacles,
        "tables": tables,
    }
    write_text(options.json, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return 0


def _add(arguments: cli.Parser, option: str, name: str, what: str) -> None:
    arguments.add_input(
        option, words=1, action="append", nargs="+", default=[], metavar=(name, "FILE"), help=what
    )


def _summaries(options: argparse.Namespace) -> dict[str, dict]:
    """Variant → its summary over seeds, with whatever files were given of it."""
    result: dict[str, dict] = {}
    for name, *files in options.metrics:
        result.setdefault(name, {}).update(summarize(_runs(files, options.seeds)))
    for name, *files in options.instances:
        found = summarize_instances(_runs(files, options.seeds))
        result.setdefault(name, {})["instances"] = found
    for name, *files in options.linear_probes:
        runs = _runs(files, options.seeds)
        result.setdefault(name, {})["linear_probe"] = summarize(runs)
    return result


def _runs(files: Sequence[str], seeds: Sequence[int]) -> list[dict]:
    if len(files) != len(seeds):
        raise InputError(f"{len(files)} files for {len(seeds)} seeds; give one for each")
    return read_all([Path(file) for file in files])


def _write_csv(
    path: Path, tables: Sequence[Mapping], obstacles: Sequence[str], record: Mapping
) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(ablations.csv_rows(tables, comparable=not obstacles))
    provenance.write_beside(path, record)


if __name__ == "__main__":
    cli.run(main)
