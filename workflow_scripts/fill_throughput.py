"""Write the times that a GPU's benchmarks measured into resources/throughput.json.

`make plan` computes its estimates from this file. The file is replaced as a whole, or not at all if
a measurement is missing.
"""

import argparse
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import throughput


def main(argv: list[str] | None = None) -> int:
    """Replace the file and print the new numbers; exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--measured",
        type=Path,
        default=REPOSITORY / "benchmarks" / "gpu.json",
        help="JSON file that make bench-gpu wrote",
    )
    parser.add_argument(
        "--throughput",
        type=Path,
        default=REPOSITORY / "resources" / "throughput.json",
        help="file to replace",
    )
    options = parser.parse_args(argv)
    filled = throughput.fill(options.measured, options.throughput)
    print(filled["gpu"])
    for rule, one in filled["rules"].items():
        print(f"{rule}: {one['seconds']} s per {one['per']}")
    return 0


if __name__ == "__main__":
    cli.run(main)
