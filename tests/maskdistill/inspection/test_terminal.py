import numpy as np
import pytest

from workflow_scripts.maskdistill.inspection import terminal


def test_control_characters_are_shown_not_sent():
    assert terminal.plain("a\x1b[31mb\n\u202ec ü") == r"a\x1b[31mb\n\u202ec ü"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1234567, "1,234,567"),
        (1234.5, "1,234"),
        (0.123456, "0.1235"),
        (0.00001234, "1.23e-05"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value, text):
    assert terminal.number(value) == text


def test_ids_are_not_grouped():
    (_, _, line) = terminal.table(["id"], [[4314911302578301]], indent=0, grouped=False)
    assert line == "4314911302578301"


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 bytes"), (1500, "1.5 kB"), (34_300_000, "34.3 MB")]
)
def test_sizes(count, text):
    assert terminal.size(count) == text


def test_tables_align_numbers_to_the_right():
    lines = terminal.table(["name", "n"], [["ok", 5], ["a long one", 1234]], indent=1, width=6)
    assert lines == [" name        n", " ──────  ─────", " ok          5", " a lon…  1,234"]


def test_histogram_shows_every_value():
    values = np.array([0.0] * 80 + [1.0] + [10.0] * 40)
    drawn = terminal.histogram(values)
    assert len(drawn) == 20
    assert drawn[0] == "█"
    assert drawn[2] == "▁"
    assert drawn[-1] == "▄"
    assert set(drawn[3:-1]) == {" "}
    assert terminal.histogram(np.full(5, 2.0)) == ""
    assert terminal.histogram(np.array([np.nan, 1.0, 2.0]))[0] == "█"


def test_courses_and_bars():
    assert terminal.trend(np.array([3.0, 2.0, 1.0, np.nan])) == "█▅▁?"
    assert terminal.bar(0.5, width=4) == "██"
    assert terminal.bar(0.28125, width=4) == "█▏"
    assert terminal.bar(7.0, width=4) == "████"
