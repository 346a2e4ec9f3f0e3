"""Write the files that are generated from the classes of the settings.

These are config/default.yaml, the schemas in config/schemas and the tables in config/README.md.
"""

import argparse

from workflow_scripts import cli
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings.documents import documents


def main(argv: list[str] | None = None) -> int:
    """Write or check the files; exit code 0.

    Raises:
        InputError: with `--check`, a file is out of date.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is out of date"
    )
    options = parser.parse_args(argv)
    for path, text in documents(REPOSITORY / "config").items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            raise InputError(f"{path}: out of date; run python -m workflow_scripts.describe_config")
        write_text(path, text)
        print(path.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    cli.run(main)
