"""The end of a failed job's log, for the terminal.

Snakemake's own --show-failed-logs prints whole logs; those of trainings have thousands of lines.
"""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

_LINES = 15  # enough for a message and the end of a traceback
_BYTES = 1 << 16  # read from the end of a log
_WIDTH = 400  # characters of a line
_PROGRESS = re.compile(r"\|.*\| *\d\S*/\d\S* \[|^\S+: \d+\w* \[\d\d:\d\d")  # a bar of tqdm


def last_lines(path: str | os.PathLike) -> list[str]:
    """The last lines of a log without its progress bars; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, Path(path).stat().st_size - _BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.strip() and not _PROGRESS.search(line)]
    return [line if len(line) <= _WIDTH else f"{line[:_WIDTH]} …" for line in lines[-_LINES:]]


class FailedLogs(logging.Handler):
    """A handler of Snakemake's log that shows how the logs of failed jobs end.

    Args:
        show: called with a text for the terminal.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        """Show the logs of the job, or of the group of jobs, that a record says has failed."""
        if str(getattr(record, "event", "")) == "job_error":
            logs = list(record.log)
        elif str(getattr(record, "event", "")) == "group_error":
            logs = [
                *record.aux_logs,
                *(path for one in record.job_error_info for path in one["log"]),
            ]
        else:
            return
        for path in logs:
            lines = last_lines(path)
            if lines:
                self._show("\n    ".join([f"{path} ends with:", *lines]))
            elif os.path.exists(path):
                self._show(
                    f"{path} is empty: the job ended before it printed anything, perhaps because "
                    "memory ran out"
                )
