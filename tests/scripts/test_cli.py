import json

import pytest

from workflow_scripts import cli, make_masks
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.runs.code_digest import code_digest

OPTIONS = ["--settings", json.dumps({"masks": {}}), "--images=a", "--features=b", "--output=c"]


def parser():
    return cli.features_parser("make_masks", make_masks.__doc__)


def test_a_program_whose_code_has_changed_since_the_run_was_started_does_nothing():
    with pytest.raises(InputError, match="code of make_masks has changed since this run") as error:
        make_masks.main([*OPTIONS, "--code=0123456789abcdef"])
    assert "\n" not in str(error.value)


def test_the_code_of_the_run_is_accepted():
    code = code_digest("workflow_scripts.make_masks", cli.REPOSITORY)
    options = parser().parse_args([*OPTIONS, f"--code={code}"])
    assert options.code == code
    assert parser().parse_args(OPTIONS).code == code  # without --code, as users call a program


def test_input_files_of_all_forms_of_options():
    made = cli.Parser("make_masks", "", required=False)
    made.add_input("--one")
    made.add_input("--absent")
    made.add_input("--several", nargs="+")
    made.add_input("--named", words=1, action="append", nargs="+", default=[])
    made.add_argument("--output")
    words = ["--one", "a", "--several", "b", "c", "--named", "x", "d", "e", "--named", "y", "f"]
    options = made.parse_args([*words, "--output", "g"])
    assert options.inputs == ["a", "b", "c", "d", "e", "f"]
