"""Command-line options that programs share, and how a program is run."""

import argparse
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.code_digest import code_digest
from workflow_scripts.maskdistill.settings.sections.runtime import RuntimeSettings


class Parser(argparse.ArgumentParser):
    """Parser of a program's command line, which always has `--settings` and `--code`.

    It remembers which options name input files, because the provenance of an output lists them.

    Args:
        program: name of the module in `workflow_scripts`.
        description: the module's docstring, shown by `--help`.
        required: whether `--settings` has to be given; if it is not given, settings are empty.
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
            help="digest of the program's code when the workflow was started; the program refuses "
            "to run if its code has changed since then",
        )

    def add_input(self, option: str, *, words: int = 0, **keywords: object) -> None:
        """Add an option for input files.

        Args:
            words: number of leading values that are not files, for instance the name of a step.
            keywords: further arguments of `add_argument`.
        """
        if not words:
            keywords.setdefault("type", Path)
        self._inputs.append((self.add_argument(option, **keywords).dest, words))

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """Parse a command line.

        Returns:
            The options and, additionally, `program` (its name), `inputs` (paths of the input files,
            as given) and `code` (digest of the program's code).

        Raises:
            InputError: the program's code has another digest than `--code`.
        """
        options = super().parse_args(args, namespace)
        options.program = self.prog
        options.inputs = [
            path for dest, words in self._inputs for path in _files(getattr(options, dest), words)
        ]
        digest = code_digest(f"workflow_scripts.{self.prog}", REPOSITORY)
        if options.code not in (None, digest):
            raise InputError(
                f"the code of {self.prog} has changed since this run of the workflow was started, "
                "and its result would not belong to this run; start snakemake again"
            )
        options.code = digest
        return options


def _files(value: object, words: int) -> Iterator[str]:
    """The files in an option's value; of each list, the first `words` items are no files."""
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
    """The provenance record of an output, see `provenance.record`.

    Args:
        options: result of `Parser.parse_args`.
        stage: the kind of output.
        files: further input files, for instance weights; None is skipped.
        extra: further entries of the record.
    """
    found = provenance.record(
        stage,
        options.settings,
        program=options.program,
        code=options.code,
        inputs=[*options.inputs, *filter(None, files)],
        **extra,
    )
    if hasattr(options, "device"):
        found |= _replaced_precisions(found["settings"], options.device)
    return found


def _replaced_precisions(settings: Mapping, device: str) -> dict[str, dict[str, str]]:
    """An entry of a record: the precisions used in place of those that the settings name."""
    half = {
        f"{name}.precision": section["precision"]
        for name, section in settings.items()
        if isinstance(section, Mapping) and section.get("precision", "float32") != "float32"
    }
    if not half:
        return {}
    from workflow_scripts.maskdistill.torch_tools import device as devices  # imports PyTorch

    replaced = devices.replaced_precisions(half, devices.choose_device(device))
    return {"computed_precision": replaced} if replaced else {}


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add `--root`."""
    parser.add_argument(
        "--root", type=Path, required=True, help="folder that file names of images are relative to"
    )


def add_max_rejected(parser: argparse.ArgumentParser) -> None:
    """Add `--max-rejected`, which only decides whether to fail, and does not change the output."""
    parser.add_argument(
        "--max-rejected",
        type=float,
        nargs=2,
        required=True,
        metavar=("SHARE", "COUNT"),
        help="fail if more images are unusable than SHARE (0..1) of all and also more than COUNT",
    )


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add `--labels`, the digest that `ground_truth.require_labels` compares with the labels."""
    parser.add_argument(
        "--labels",
        default="",
        help="digest of the split's labels when the workflow was started; the program refuses to "
        "run if they have changed since then",
    )


def add_runtime(parser: argparse.ArgumentParser, *, batch_size: bool = True) -> None:
    """Add `--device`, `--workers` and `--batch-size`, which do not change the output."""
    defaults = RuntimeSettings()
    parser.add_argument(
        "--device",
        default=defaults.device,
        help="cpu, cuda, cuda:N, or auto (CUDA if available)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="threads or processes that decode images"
    )
    if batch_size:
        parser.add_argument(
            "--batch-size", type=int, default=defaults.batch_size, help="images per batch"
        )


def images_parser(program: str, description: str | None) -> Parser:
    """Parser of programs that make one Parquet file from a shard of images."""
    parser = Parser(program, description)
    parser.add_input("--images", required=True, help="the shard's manifest")
    add_root(parser)
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    add_runtime(parser)
    return parser


def prediction_parser(program: str, description: str | None) -> Parser:
    """Parser of programs that apply a trained model to a shard of images."""
    parser = images_parser(program, description)
    parser.add_input("--model", required=True, help="trained model")
    return parser


def segmentation_parser(program: str, description: str | None) -> Parser:
    """Parser of programs that apply a trained segmentation model to a shard of images."""
    parser = prediction_parser(program, description)
    parser.add_input(
        "--features",
        help="the shard's features with tokens (features.tokens), which a model of vit_head "
        "predicts from; without them the transformer runs again",
    )
    return parser


def training_parser(program: str, description: str | None) -> Parser:
    """Parser of programs that train a model and continue from its last checkpoint."""
    parser = Parser(program, description)
    add_root(parser)
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--model", type=Path, required=True, help="model file to write")
    parser.add_argument("--history", type=Path, required=True, help="loss history to write, CSV")
    parser.add_argument(
        "--seed", type=int, required=True, help="seed of image order, augmentation and new weights"
    )
    add_runtime(parser, batch_size=False)
    return parser


def features_parser(program: str, description: str | None) -> Parser:
    """Parser of programs that find masks in the features of a shard of images."""
    parser = Parser(program, description)
    parser.add_input("--images", required=True, help="the shard's manifest")
    parser.add_input("--features", required=True, help="the shard's features")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    return parser


def add_checksums(parser: argparse.ArgumentParser) -> None:
    """Add `--checksums`, the file of checksums that `download.pin` writes."""
    parser.add_argument(
        "--checksums",
        type=Path,
        required=True,
        help="JSON file that records the checksum of a file when it is first downloaded",
    )


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run `main` as a program: an `InputError` ends it with one line on stderr."""
    _end_when_snakemake_ends()
    try:
        sys.exit(main(None))
    except InputError as error:
        sys.exit(f"error: {error}")


def _end_when_snakemake_ends() -> None:
    """Ask Linux to send SIGTERM to this program when Snakemake is killed.

    Otherwise the program would continue unnoticed, and overwrite the outputs of a later run. A
    training saves a checkpoint at SIGTERM. Nothing is done if Snakemake did not start the program.
    """
    snakemake = os.environ.get("MASKDISTILL_SNAKEMAKE")  # process id
    if snakemake is None or not sys.platform.startswith("linux"):
        return
    if os.getppid() == int(snakemake):
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if not os.path.exists(f"/proc/{snakemake}"):  # ended while this program was starting
        sys.exit(
            f"error: Snakemake (process {snakemake}) has ended, and this job ends with it; start "
            "snakemake again"
        )
