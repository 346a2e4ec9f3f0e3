import re

import pytest
from snakemake.utils import QuotedFormatter

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.shell_text import (
    AtStart,
    files_of,
    in_shell,
    one_of,
    option_text,
    program_start,
)


def test_all_shards_on_a_command_line_are_one_short_text():
    assert in_shell([]) == ""
    assert in_shell(["a/b/0000.parquet"]) == "a/b/{0000..0000}.parquet"
    paths = [f"a/b/{number:04d}.parquet" for number in range(1024)]
    assert in_shell(paths) == "a/b/{0000..1023}.parquet"


def test_other_files_are_spelled_out_and_quoted():
    assert in_shell(["a/metrics.json", "my results/b.json"]) == "a/metrics.json 'my results/b.json'"
    assert in_shell(["a/0001.parquet"]) == "a/0001.parquet"


def test_options_with_files_make_the_input_of_a_rule_and_its_command_line():
    options = [("--images val", ["a/0000.parquet", "a/0001.parquet"]), ("--metrics", ["m.json"])]
    assert files_of(options) == ["a/0000.parquet", "a/0001.parquet", "m.json"]
    assert option_text(options) == "--images val a/{0000..0001}.parquet --metrics m.json"
    assert option_text([("--masks", [])]) == "--masks"


def test_text_is_filled_in_when_the_command_is_formatted():
    assert f"{AtStart(str.upper):demo}" == "DEMO"


@pytest.mark.parametrize("name", ["demo", "faq", "menu", "a b"])
def test_snakemake_leaves_every_letter_of_a_name(name):
    values = {"TEXT": AtStart(str.upper), "name": name}
    assert QuotedFormatter().format("{TEXT:{name}u}", **values) == name.upper()


def test_every_text_of_the_rules_keeps_its_last_letter():
    for path in (REPOSITORY / "rules").glob("*.smk"):
        used = re.findall(r"\{[A-Z_]+:\{.*?\}[^{}\s]*\}", path.read_text())
        assert [one for one in used if not one.endswith("u}")] == [], path


def test_torchrun_starts_trainings_with_several_gpus():
    assert program_start("1") == program_start("0") == "python -m"
    assert program_start("4") == "python -m workflow_scripts.torchrun --nproc-per-node 4 -m"


def test_a_pattern_of_exactly_these_values():
    pattern = one_of(["a.b", "c"])
    assert [bool(re.fullmatch(pattern, text)) for text in ("a.b", "c", "axb", "")] == [
        True,
        True,
        False,
        False,
    ]
    assert re.fullmatch(one_of([]), "") is None
