"""Print which stages would run again, how many jobs of each, and why.

No job is run. Snakemake's dry run compares settings, code and inputs with its records of how the
existing files were made. Options that are not listed here are passed to Snakemake, for instance
--config datasets='[mine]' or --configfile my_overrides.yaml. The default target is `all`.
"""

import argparse

from workflow_scripts import cli
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.staleness import describe, plan


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit code 0."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--profile", default=REPOSITORY / "profiles" / "local", help="Snakemake's profile"
    )
    options, others = parser.parse_known_args(argv)
    print(describe(plan([f"--profile={options.profile}", *others])))
    return 0


if __name__ == "__main__":
    cli.run(main)
