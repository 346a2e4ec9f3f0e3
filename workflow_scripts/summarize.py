"""Write mean and standard deviation of the metrics over all seeds as JSON, and print a table."""

import json
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.evaluation import summary
from workflow_scripts.maskdistill.files.atomic import write_text


def main(argv: list[str] | None = None) -> int:
    """Write the summary and print it; exit code 0."""
    parser = cli.Parser("summarize", __doc__)
    parser.add_input("--metrics", nargs="+", required=True, help="metrics.json of every seed")
    parser.add_input("--instances", nargs="*", default=[], help="instances.json of every seed")
    parser.add_input(
        "--linear-probes", nargs="*", default=[], help="linear_probe.json of every seed"
    )
    parser.add_argument("--output", type=Path, required=True, help="the summary, JSON")
    options = parser.parse_args(argv)

    result = summary.summarize(summary.read_runs(options.metrics))
    if options.instances:
        instances = summary.read_runs(options.instances)
        result["instances"] = summary.summarize_instances(instances)
    if options.linear_probes:
        result["linear_probe"] = summary.summarize(summary.read_runs(options.linear_probes))
    content = {"provenance": cli.record(options, "summarize"), **result}
    write_text(options.output, json.dumps(content, indent=1) + "\n")
    print(summary.table(result))
    return 0


if __name__ == "__main__":
    cli.run(main)
