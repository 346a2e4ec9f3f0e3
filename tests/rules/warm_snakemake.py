"""Does once what Snakemake does whenever it plans this workflow: imports, and digests of the code.

The server of `forked_snakemake` imports this module, so that its forks need not do it again. A plan
then takes a third of the processor time.
"""

import importlib
import re

import snakemake.cli

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.code_digest import code_digest, rules_digest

# Snakemake and the workflow import these libraries late.
_LIBRARIES = (
    "PIL.Image",
    "filelock",
    "jinja2",
    "pygments",
    "requests",
    "smart_open",
    "tqdm",
    "yte",
)


def _warm() -> None:
    snakemake.cli.get_argument_parser()  # loads Snakemake's plugins
    rules = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
    for name in (*_LIBRARIES, *re.findall(r"^from (workflow_scripts\S+) import", rules, re.M)):
        importlib.import_module(name)
    for path in (REPOSITORY / "workflow_scripts").glob("*.py"):
        code_digest(f"workflow_scripts.{path.stem}", REPOSITORY)
    rules_digest(REPOSITORY)


_warm()
