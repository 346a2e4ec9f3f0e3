"""Write all tables and figures of the ablations of one dataset as a single HTML file."""

from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.paper import ablations_page
from workflow_scripts.maskdistill.runs.variants import OF_OBJECTS


def main(argv: list[str] | None = None) -> int:
    """Write the page; exit code 0."""
    parser = cli.Parser("report_ablations", __doc__, required=False)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    parser.add_input("--items", nargs="+", required=True, help="outputs of tabulate_ablation, JSON")
    parser.add_input("--figures", nargs="*", default=[], help="their figures, NAME.svg")
    parser.add_argument(
        "--left-out",
        nargs="*",
        default=[],
        choices=OF_OBJECTS,
        metavar="ITEM",
        help="items that need labels of single objects, which the dataset does not have",
    )
    parser.add_argument("--output", type=Path, required=True, help="the page, HTML")
    options = parser.parse_args(argv)
    items = [read_json(path, remedy="run the ablations again") for path in options.items]
    # An SVG inside of an HTML page must not have an XML declaration.
    figures = {path.stem: path.read_text().partition("?>\n")[2] for path in options.figures}
    page = ablations_page.render(options.dataset, items, figures, options.left_out)
    record = cli.record(options, "ablations_report")
    write_text(options.output, provenance.embed_in_html(page, record))
    return 0


if __name__ == "__main__":
    cli.run(main)
