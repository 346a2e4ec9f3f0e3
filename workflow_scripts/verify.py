"""Check whether every output of a dataset matches the current config, code and input files.

Reads the provenance of the outputs in results/DATASET and lists each output that was made with
other settings, by other code, or from other files. The exit code is 1 if there is such an output.
"""

import argparse
from pathlib import Path

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import frozen, verification
from workflow_scripts.maskdistill.runs.code_digest import rules_digest
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml


def main(argv: list[str] | None = None) -> int:
    """Print the verdict; exit code 0 if nothing differs, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a file config/datasets/DATASET.yaml")
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        help="files with overrides that were given to `snakemake --configfile`",
    )
    options = parser.parse_args(argv)

    config = merge(
        read_yaml(REPOSITORY / "config" / "default.yaml"), *map(read_yaml, options.configfile)
    )
    config = merge(config, {"datasets": [options.dataset]})
    run = frozen.parse(config, REPOSITORY, rules=rules_digest(REPOSITORY))
    root = Path("results") / options.dataset
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; run snakemake first")
    outputs = list(verification.outputs(root))
    if not outputs:
        raise InputError(f"{root}: the folder has no output of the workflow; run snakemake first")
    verdict = verification.verify(outputs, root, run, options.dataset, REPOSITORY)
    print("\n".join(verification.describe(verdict)))
    return 1 if verdict.differences else 0


if __name__ == "__main__":
    cli.run(main)
