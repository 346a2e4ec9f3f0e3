"""What the command lines of all rules share: settings as JSON, one-line errors."""

import argparse
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.code_digest import code_digest
from workflow_scripts.maskdistill.settings.sections.runtime import RuntimeSettings


class Parser(argparse.ArgumentParser):
    """The command line of a program: `--help` opens with its docstring, and it has `--settings`.

    It knows which options name input files, so that outputs can say what they were made from.

    Args:
        program: name of the module in `workflow_scripts`.
        description: the module's docstring.
        required: whether `--settings` has to be given; without, it is empty.
    """

    def __init__(self, program: str, description: str | None, *, required: bool = True) -> None:
        super().__init__(
            prog=program,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._inputs: list[tuple[str, int]] = []
        self.add_argument(
            "--settings",
            type=json.loads,
            required=required,
            default={},
            help="the stage's part of the config as one JSON object; see config/README.md",
        )
        self.add_argument(
            "--code",
            help="digest of the program's logic when the workflow was started: if it is another "
            "one now, nothing is done",
        )

    def add_input(self, option: str, *, words: int = 0, **keywords: object) -> None:
        """Add an option for input files.

        Args:
            words: number of its values that are no files, before those that are.
            keywords: of `add_argument`.
        """
        if not words:
            keywords.setdefault("type", Path)
        self._inputs.append((self.add_argument(option, **keywords).dest, words))

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """Parse; the result has `program`, `inputs` (files, as they were given) and `code` too.

        Raises:
            InputError: the program's code is not that of `--code`.
        """
        options = super().parse_args(args, namespace)
        options.program = self.prog
        options.inputs = [
            path for dest, words in self._inputs for path in _files(getattr(options, dest), words)
        ]
        own = code_digest(f"workflow_scripts.{self.prog}", REPOSITORY)
        if options.code not in (None, own):
            raise InputError(
                f"the code of {self.prog} has changed since this run of the workflow was started, "
                "and its result would not be what the run says; start snakemake again"
            )
        options.code = own
        return options


def _files(value: object, words: int) -> Iterator[str]:
    """The files among the values of an option, which may be none, one, several or groups."""
    if isinstance(value, str | os.PathLike):
        yield os.fspath(value)
    elif value and isinstance(value[0], list):
        for group in value:
            yield from _files(group, words)
    elif value:
        yield from map(os.fspath, value[words:])


def record(
    options: argparse.Namespace,
    stage: str,
    *,
    files: Iterable[str | os.PathLike | None] = (),
    **extra: object,
) -> dict:
    """What an output of a program says of its making, see `provenance.record`.

    Args:
        options: of `Parser.parse_args`.
        stage: what kind of output it is.
        files: further files that it is made from, for instance weights; None is passed over.
        extra: more that decides or describes the output.
    """
    return provenance.record(
        stage,
        options.settings,
        program=options.program,
        code=options.code,
        inputs=[*options.inputs, *filter(None, files)],
        **extra,
    )


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add `--root`."""
    parser.add_argument(
        "--root", type=Path, required=True, help="folder that file names are relative to"
    )


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Add `--max-rejected`, which changes no result, only whether there is one."""
    parser.add_argument(
        "--max-rejected",
        type=float,
        nargs=2,
        required=True,
        metavar=("SHARE", "COUNT"),
        help="unusable images that are tolerated: a share of all, or a number if that is more",
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add `--labels`, for `ground_truth.require_labels`."""
    parser.add_argument(
        "--labels",
        default="",
        help="digest of the split's labels when the workflow was started: if it is another one "
        "now, nothing is done",
    )


def add_runtime(parser: argparse.ArgumentParser, *, batch_size: bool = True) -> None:
    """Add `--device`, `--workers` and `--batch-size`, none of which changes a result."""
    defaults = RuntimeSettings()
    parser.add_argument(
        "--device",
        default=defaults.device,
        help="cpu, cuda, cuda:N, or auto: CUDA where there is any",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes or threads that decode images"
    )
    if batch_size:
        parser.add_argument(
            "--batch-size", type=int, default=defaults.batch_size, help="images in one pass"
        )


def images_parser(program: str, description: str | None) -> Parser:
    """The command line of programs that make one Parquet file from a shard of images."""
    parser = Parser(program, description)
    parser.add_input("--images", required=True, help="the shard's manifest")
    add_root(parser)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    add_runtime(parser)
    return parser


def prediction_parser(program: str, description: str | None) -> Parser:
    """The command line of programs that apply a trained model to a shard of images."""
    parser = images_parser(program, description)
    parser.add_input("--model", required=True, help="trained model")
    return parser


def features_parser(program: str, description: str | None) -> Parser:
    """The command line of programs that find masks in the features of a shard of images."""
    parser = Parser(program, description)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--features", required=True, help="the shard's features")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    return parser


def add_checksums(parser: argparse.ArgumentParser) -> None:
    """Add `--checksums`."""
    parser.add_argument(
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
