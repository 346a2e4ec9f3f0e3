import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.runs.failed_logs import FailedLogs, last_lines


def test_the_end_of_a_long_log_is_shown_without_its_progress_bars(tmp_path, capfd):
    path = tmp_path / "train.log"
    with progress_bar(total=3, description="training", unit="step") as bar:
        bar.update(2)
        bar.refresh()
    bars = capfd.readouterr().err
    assert "training" in bars
    head = "".join(f"line {number}\n" for number in range(50_000))
    path.write_text(f"{head}{bars}\nerror: data/a.jpg: broken\n{bars}")

    lines = last_lines(path)

    assert lines[-1] == "error: data/a.jpg: broken"
    assert lines[0] == "line 49986"
    assert len(lines) == 15


def test_long_lines_and_odd_bytes_do_not_disturb(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(b"\xff\xfe\n" + b"x" * 1000)
    assert [len(line) for line in last_lines(path)] == [2, 402]
    assert last_lines(tmp_path / "none.log") == []


@pytest.fixture
def shown():
    """What is shown, and a logger with the handler."""
    texts = []
    logger = logging.Logger("of a test")
    logger.addHandler(FailedLogs(texts.append))
    return SimpleNamespace(texts=texts, logger=logger)


def test_failed_jobs_and_groups_show_their_logs(tmp_path, shown):
    first, second, empty = (tmp_path / name for name in ("a.log", "b.log", "c.log"))
    first.write_text("starting\nerror: no such file\n")
    second.write_text("slurmstepd: error: oom-kill\n")
    empty.touch()

    shown.logger.error(
        "failed", extra={"event": LogEvent.JOB_ERROR, "log": [str(first), str(empty)]}
    )
    group = {"aux_logs": [str(second)], "job_error_info": [{"log": [str(first)]}]}
    shown.logger.error("failed", extra={"event": LogEvent.GROUP_ERROR, **group})

    assert shown.texts[0] == f"{first} ends with:\n    starting\n    error: no such file"
    assert shown.texts[1].startswith(f"{empty} is empty: the job ended before")
    assert shown.texts[2] == f"{second} ends with:\n    slurmstepd: error: oom-kill"
    assert shown.texts[3] == shown.texts[0]


def test_other_messages_are_no_failures(shown):
    shown.logger.error("an error")
    shown.logger.error("job", extra={"event": LogEvent.JOB_INFO, "log": ["a.log"]})
    assert shown.texts == []
