"""Texts for rules: parts of shell commands, and patterns for wildcards."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence


class AtStart:
    """Text in a shell command that depends on the job, used as {ROOT:{wildcards.dataset}u}.

    Snakemake takes a last letter q or u of the text after the colon as an instruction to quote the
    result or not, and removes it. The u is needed so that it does not take one of a name.

    The text is computed when the job starts. It is not a parameter of the rule, so that no output
    becomes stale when it changes.

    Args:
        text_of: function from the text after the colon to the text in the command.
    """

    def __init__(self, text_of: Callable[[str], str]) -> None:
        self.text_of = text_of

    def __format__(self, value: str) -> str:
        return self.text_of(value)


def program_start(gpus: str) -> str:
    """How to start a training: under torchrun with more than one GPU."""
    launcher = f" workflow_scripts.torchrun --nproc-per-node {gpus} -m" if int(gpus) > 1 else ""
    return f"python -m{launcher}"


def in_shell(paths: Sequence[str]) -> str:
    """Paths for a command line; all shards of a stage become one pattern that the shell expands.

    Without the pattern, the paths of thousands of shards could exceed the length limit of commands.

    Args:
        paths: all shards of a stage, 0000.parquet and so on in one folder; or any other files.
    """
    folder = os.path.dirname(paths[0]) if paths else ""
    if list(paths) == [f"{folder}/{number:04d}.parquet" for number in range(len(paths))]:
        return f"{folder}/{{0000..{len(paths) - 1:04d}}}.parquet" if paths else ""
    return " ".join(map(shlex.quote, paths))


# Options of a program with the files that follow each: ("--masks train", ["a/0000.parquet", …]).
FileOptions = Sequence[tuple[str, Sequence[str]]]


def files_of(options: FileOptions) -> list[str]:
    """All files of these options, for the input of a rule."""
    return [path for _, paths in options for path in paths]


def option_text(options: FileOptions) -> str:
    """The options and their files as text for a command line."""
    return " ".join(f"{option} {in_shell(paths)}".strip() for option, paths in options)


def one_of(values: Iterable[str]) -> str:
    """A pattern that matches exactly these values; without values, it matches nothing."""
    return "|".join(map(re.escape, values)) or r"(?!)"
