import itertools
import subprocess
import sys

import pytest

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.code_digest import code_digest, import_closure

PROGRAMS = ("pkg.alone", "pkg.main")
FILES = {
    "pkg/__init__.py": "",
    "pkg/alone.py": "import numpy as np\n\nfrom pkg import shared\n\nprint(shared.NUMBER)\n",
    "pkg/main.py": '''"""What it does."""

import argparse
import json

from pkg import shared
from pkg.lib.direct import area


def main(argv=None):
    """Run."""
    parser = argparse.ArgumentParser(description="text")
    parser.add_argument("--size", type=int, default=3, help="side in pixels")  # a comment
    from pkg.lib import late

    return area(parser.parse_args(argv).size), late
''',
    "pkg/shared.py": "NUMBER = 4\n",
    "pkg/lib/__init__.py": "STATE = []\n",
    "pkg/lib/direct.py": "import pkg.lib.deep\n\n\ndef area(side):\n    return side**2\n",
    "pkg/lib/deep.py": 'ENGINES = {"fast": "pkg.lib.engines.fast"}\n',
    "pkg/lib/late.py": "VALUE = 1\n",
    "pkg/lib/engines/__init__.py": "",
    "pkg/lib/engines/fast.py": "SPEED = 2\n",
    "pkg/lib/unused.py": "NOTHING = 0\n",
}


@pytest.fixture
def digests(tmp_path):
    """A function that writes the package anew, with some text replaced, and digests it."""
    numbers = itertools.count()

    def digest(path=None, old="", new=""):
        root = tmp_path / str(next(numbers))
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name == path:
                assert old in text
                text = text.replace(old, new)
            (root / name).write_text(text)
        return {program: code_digest(program, root) for program in PROGRAMS}

    return digest


def test_the_same_code_elsewhere_has_the_same_digest(digests):
    first = digests()
    assert digests() == first
    assert first["pkg.main"] != first["pkg.alone"]
    assert all(len(value) == 16 for value in first.values())


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("pkg/main.py", "# a comment", "# another one"),
        ("pkg/main.py", '"""What it does."""\n', ""),
        ("pkg/main.py", '"""Run."""', '"""Runs.\n\n    At length.\n    """'),
        ("pkg/main.py", 'help="side in pixels"', 'help="side"'),
        ("pkg/main.py", ', help="side in pixels"', ""),
        ("pkg/main.py", 'description="text"', 'description=f"{3} texts"'),
        ("pkg/main.py", '"--size", type=int', "\n        '--size',\n        type = (int)"),
        ("pkg/shared.py", "NUMBER = 4", '"""Numbers."""\n\nNUMBER = 4  # four'),
        ("pkg/lib/unused.py", "0", "1"),
    ],
)
def test_text_and_layout_do_not_matter(digests, path, old, new):
    assert digests(path, old, new) == digests()


@pytest.mark.parametrize(
    ("path", "old", "new", "stale"),
    [
        ("pkg/main.py", "default=3", "default=4", {"pkg.main"}),
        ("pkg/alone.py", "print(", "repr(", {"pkg.alone"}),
        ("pkg/shared.py", "4", "5", {"pkg.main", "pkg.alone"}),
        ("pkg/lib/direct.py", "side**2", "side**3", {"pkg.main"}),
        ("pkg/lib/deep.py", "fast", "slow", {"pkg.main"}),
        ("pkg/lib/late.py", "1", "2", {"pkg.main"}),  # imported inside a function
        ("pkg/lib/engines/fast.py", "2", "3", {"pkg.main"}),  # named by a string
        ("pkg/lib/__init__.py", "[]", "{}", {"pkg.main"}),
        ("pkg/lib/engines/__init__.py", "", "import os\n", {"pkg.main"}),
        ("pkg/__init__.py", "", "import os\n", {"pkg.main", "pkg.alone"}),
    ],
)
def test_logic_changes_exactly_what_uses_it(digests, path, old, new, stale):
    before, after = digests(), digests(path, old, new)
    assert {program for program in PROGRAMS if before[program] != after[program]} == stale


def test_a_docstring_alone_and_a_string_in_the_middle(digests):
    """Only the first string of a body is text."""
    before = digests()["pkg.main"]
    assert digests("pkg/lib/late.py", "VALUE = 1", '"text"\nVALUE = 1')["pkg.main"] == before
    assert digests("pkg/lib/late.py", "VALUE = 1", 'VALUE = "text"')["pkg.main"] != before


def test_unknown_module(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pkg\.nothing"):
        code_digest("pkg.nothing", tmp_path)


def rule_modules():
    return sorted(
        p.stem for p in (REPOSITORY / "workflow_scripts").glob("*.py") if p.stem[0] != "_"
    )


@pytest.mark.parametrize("rule", ["make_masks", "train_mask_rcnn", "evaluate"])
def test_the_closure_holds_all_that_python_really_imports(rule):
    """Every module of ours that is loaded by running the program's imports is covered."""
    code = (
        f"import sys, workflow_scripts.{rule}\n"
        "print(*sorted(n for n in sys.modules if n.startswith('workflow_scripts')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    closure = set(import_closure(f"workflow_scripts.{rule}", REPOSITORY))
    assert set(done.stdout.split()) <= closure


def test_what_each_program_of_ours_depends_on():
    def closure(rule):
        names = import_closure(f"workflow_scripts.{rule}", REPOSITORY)
        return {name.removeprefix("workflow_scripts.maskdistill.") for name in names}

    assert {"discovery.affinity", "files.masks", "files.shards"} <= closure("make_masks")
    # Masks may be refined by the CRF, which knows no network.
    assert "segmentation.dense_crf" in closure("make_masks")
    assert not {
        *("discovery.vit", "discovery.clustering", "mask_rcnn"),
        *("segmentation.deeplab", "segmentation.learning"),
    } & closure("make_masks")
    assert not {"discovery.affinity", "discovery.clustering"} & closure("extract_features")
    assert not {"discovery.vit", "discovery.affinity", "mask_rcnn.fitting"} & closure(
        "filter_candidates"
    )
    assert "mask_rcnn.torchvision_engine" in closure("train_mask_rcnn")
    for rule in rule_modules():
        evaluates = rule.startswith("evaluate") or rule in ("report", "make_demo_dataset")
        if not evaluates and rule not in (
            "summarize",
            "tabulate_ablation",
            "write_ground_truth",
            "train_linear_probe",
            "export_dataset",
            "inspect_files",
            "new_dataset",
            "write_gallery",
        ):
            assert not {
                "data.ground_truth",
                "evaluation.confusion_matrix",
                "evaluation.matching",
            } & closure(rule), rule
