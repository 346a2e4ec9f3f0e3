"""Dry runs of Snakemake in processes that start with Snakemake already imported.

Importing it takes as long as planning a small run, and the tests plan more than a hundred times.
"""

import multiprocessing
import os
from pathlib import Path

import snakemake.cli

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "workflow_scripts.maskdistill.runs.frozen"])


def run(arguments: list[str], printed: Path) -> int:
    """Run Snakemake with these arguments, as its command line does.

    Args:
        printed: file for what it prints, stdout and stderr.

    Returns:
        The exit status.
    """
    process = _FORKS.Process(target=_run_here, args=(arguments, printed))
    process.start()
    process.join()
    return process.exitcode


def _run_here(arguments: list[str], printed: Path) -> None:
    with open(printed, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    snakemake.cli.main(arguments)
