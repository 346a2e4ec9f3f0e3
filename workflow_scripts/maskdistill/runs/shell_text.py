"""Texts of the rules: of shell commands, and of the patterns of wildcards."""

import os
import re
from collections.abc import Callable, Iterable, Sequence


class AtStart:
    """Text of a shell command that depends on the job, as {ROOT:{wildcards.dataset}}.

    It is filled in when the job starts. It is no parameter, so its change makes nothing stale.

    Args:
        text_of: from what follows the colon to the text.
    """

    def __init__(self, text_of: Callable[[str], str]) -> None:
        self.text_of = text_of

    def __format__(self, value: str) -> str:
        return self.text_of(value)


def program_start(gpus: str) -> str:
    """How to start a training: under torchrun with more than one GPU."""
    launcher = f" workflow_scripts.torchrun --nproc-per-node {gpus} -m" if int(gpus) > 1 else ""
    return f"python -m{launcher}"


def in_shell(shards: Sequence[str]) -> str:
    """The files of all shards of a stage, for the shell to expand; no text for no file.

    Spelled out, a thousand of them would be longer than a command may be.

    Args:
        shards: their paths, 0000.parquet and so on in one folder.
    """
    if not shards:
        return ""
    return f"{os.path.dirname(shards[0])}/{{0000..{len(shards) - 1:04d}}}.parquet"


def one_of(values: Iterable[str]) -> str:
    """A pattern of exactly these values; of none, one that nothing matches."""
    return "|".join(map(re.escape, values)) or r"(?!)"
