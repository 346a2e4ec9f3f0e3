"""Snakemake in processes that start with Snakemake already imported, see `warm_snakemake`.

Otherwise this takes most of the time of a plan, and the tests plan more than a hundred times.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import snakemake.cli

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "tests.rules.warm_snakemake"])


def run(
    arguments: list[str], printed: Path, *, python: Path | None = None, timeout: float | None = None
) -> int:
    """Run Snakemake with these arguments, as its command line does.

    Args:
        printed: file for Snakemake's stdout and stderr.
        python: the interpreter that runs the jobs, see `job_server`; None for this one.
        timeout: seconds after which Snakemake is killed.

    Returns:
        The exit status.
    """
    process = _FORKS.Process(
        target=_run_here, args=(arguments, printed, python, dict(os.environ), os.getcwd())
    )
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _run_here(
    arguments: list[str],
    printed: Path,
    python: Path | None,
    environment: Mapping[str, str],
    folder: str,
) -> None:
    # This process was forked from a server, which has the environment of its own start.
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(printed, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if python is not None:
        sys.executable = str(python)
    snakemake.cli.main(arguments)
