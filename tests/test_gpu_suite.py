"""The tests for a GPU, when they run without a GPU, and the verdict that they print."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.gpu import __main__ as suite
from tests.gpu import verdict
from workflow_scripts.maskdistill.repository import REPOSITORY


def run(*arguments, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "tests.gpu", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_all_is_skipped_with_a_reason(tmp_path):
    done = run("memory", "--output", tmp_path)
    assert done.returncode == 0, done.stdout
    assert "| memory | extraction |  |  | skipped: no CUDA GPU |" in done.stdout
    assert "2 skipped" in done.stdout.splitlines()
    assert "passed" not in done.stdout


def test_a_part_on_a_pretended_device_and_its_verdict(tmp_path):
    done = run("clusters", "--gpu-device", "cpu", "--output", tmp_path)
    assert done.returncode == 0, done.stdout
    table = done.stdout[done.stdout.index("| part |") :]
    assert (
        "| clusters | k-means: share of points in the same cluster | 1 | ≥ 0.95 | kept |" in table
    )
    # The verdict over all parts that were run can be printed again.
    again = run("--verdict", "--output", tmp_path)
    assert table in again.stdout
    assert f"cpu, PyTorch {torch.__version__}" in again.stdout


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def test_only_the_library_and_pytest_are_needed_to_collect(tmp_path):
    """If a library is missing, the tests that need it are skipped with that reason."""
    names = {"snakemake", "faiss", "pycocotools", "pydensecrf", "xdist", "pytest_timeout"}
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(names=names))
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu"]
    done = subprocess.run(
        [*command, "--confcutdir=tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in suite.PARTS:
        assert f"tests/gpu/test_{part}.py::" in done.stdout
    done = run(
        "clusters", "--gpu-device", "cpu", "--output", tmp_path / "out", environment=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| clusters | k means |  |  | skipped: faiss is not installed (No module" in done.stdout


def test_every_module_is_a_part():
    modules = {path.stem.removeprefix("test_") for path in suite.FOLDER.glob("test_*.py")}
    assert set(suite.PARTS) == modules


def test_a_verdict_names_what_was_not_kept():
    measured = {"what": "keys", "value": 0.5, "bound": "≤ 0.1", "kept": False}
    failed = {"test": "test_x", "outcome": "failed", "reason": "a | b", "measured": []}
    parts = {
        "one": [
            {"machine": {"device": "GPU", "PyTorch": "2.11"}},
            failed | {"measured": [measured]},
            failed,
        ],
        "two": [],
    }
    lines = list(verdict.lines(parts))
    assert lines[0] == "GPU, PyTorch 2.11"
    assert lines[2] == "2 failed, 1 part not run"
    assert lines[6:] == [
        "| one | keys | 0.5 | ≤ 0.1 | **not kept** |",
        "| one | x |  |  | **failed**: a / b |",
        "| two |  |  |  | **not run** |",
    ]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    whole = {"test": "test_x", "outcome": "passed", "reason": "", "measured": []}
    path = tmp_path / "part.jsonl"
    path.write_text(json.dumps(whole) + '\n{"test": "te')
    assert verdict.read(path) == [whole]
