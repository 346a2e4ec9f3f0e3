"""What the command lines of all rules share: settings as JSON, one-line errors."""

import argparse
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError


def parser(description: str | None, *, required: bool = True) -> argparse.ArgumentParser:
    """A parser whose `--help` opens with the module's docstring, with `--settings`.

    Args:
        required: whether `--settings` has to be given; without, it is empty.
    """
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--settings",
        type=json.loads,
        required=required,
        default={},
        help="the stage's part of the config as one JSON object; see config/README.md",
    )
    return result


def add_root(arguments: argparse.ArgumentParser) -> None:
    """Add `--root`."""
    arguments.add_argument(
        "--root", type=Path, required=True, help="folder that file names are relative to"
    )


def add_tolerance(arguments: argparse.ArgumentParser) -> None:
    """Add `--max-rejected`, which changes no result, only whether there is one."""
    arguments.add_argument(
        "--max-rejected",
        type=float,
        nargs=2,
        required=True,
        metavar=("SHARE", "COUNT"),
        help="unusable images that are tolerated: a share of all, or a number if that is more",
    )


def add_runtime(arguments: argparse.ArgumentParser, *, batch_size: bool = True) -> None:
    """Add `--device`, `--workers` and `--batch-size`, none of which changes a result."""
    arguments.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:N, or auto: CUDA where there is any"
    )
    arguments.add_argument(
        "--workers", type=int, default=1, help="processes or threads that decode images"
    )
    if batch_size:
        arguments.add_argument("--batch-size", type=int, default=8, help="images in one pass")


def images_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of programs that make one Parquet file from a shard of images."""
    result = parser(description)
    result.add_argument("--images", type=Path, required=True, help="the shard's manifest")
    add_root(result)
    result.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    add_runtime(result)
    return result


def prediction_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of programs that apply a trained model to a shard of images."""
    result = images_parser(description)
    result.add_argument("--model", type=Path, required=True, help="trained model")
    return result


def features_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of programs that find masks in the features of a shard of images."""
    result = parser(description)
    result.add_argument("--images", type=Path, required=True, help="the shard's manifest")
    result.add_argument("--features", type=Path, required=True, help="the shard's features")
    result.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    return result


def add_checksums(arguments: argparse.ArgumentParser) -> None:
    """Add `--checksums`."""
    arguments.add_argument(
        "--checksums",
        type=Path,
        required=True,
        help="JSON file in which the checksums of first downloads are recorded",
    )


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a rule's `main` as a program: bad input ends it with one line on stderr."""
    _end_with_snakemake()
    try:
        sys.exit(main(None))
    except InputError as error:
        sys.exit(f"error: {error}")


def _end_with_snakemake() -> None:
    """Let kill -9 of Snakemake be SIGTERM for its job (Linux): trainings save, all end.

    Otherwise the job would run on unseen, and replace in the end what a later run has made.
    Programs that were not started by Snakemake are left alone.
    """
    snakemake = os.environ.get("MASKDISTILL_SNAKEMAKE")  # its process id
    if snakemake is None or not sys.platform.startswith("linux"):
        return
    if os.getppid() == int(snakemake):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if not os.path.exists(f"/proc/{snakemake}"):  # it ended while this program was starting
        sys.exit(f"error: Snakemake (process {snakemake}) is gone")
