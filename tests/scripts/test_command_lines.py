"""Properties of the command lines of all programs."""

import argparse
import importlib
import os
import subprocess
import sys

import pytest

from workflow_scripts import cli, make_masks
from workflow_scripts.maskdistill.repository import REPOSITORY

PROGRAMS = sorted(
    path.stem
    for path in (REPOSITORY / "workflow_scripts").glob("*.py")
    if path.stem not in ("__init__", "cli", "torchrun")  # torchrun has PyTorch's options
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_explains_every_option(name, capsys, monkeypatch):
    explained = []
    original = argparse.ArgumentParser.format_help

    def format_help(parser):
        explained.extend((action.option_strings, action.help) for action in parser._actions)
        return original(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "format_help", format_help)
    module = importlib.import_module(f"workflow_scripts.{name}")
    with pytest.raises(SystemExit) as exit_:
        module.main(["--help"])
    assert exit_.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join(module.__doc__.strip().splitlines()[0].split()) in printed
    assert explained
    for names, text in explained:
        if name not in ("inspect_files", "new_dataset", "verify"):  # people type these commands
            assert names, "in a rule's shell command every value should have the name of its option"
        assert text, f"{names} is not explained"


@pytest.mark.parametrize("name", PROGRAMS)
def test_unknown_options(name, capsys):
    module = importlib.import_module(f"workflow_scripts.{name}")
    with pytest.raises(SystemExit) as exit_:
        module.main(["--no-such-option"])
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_one(tmp_path):
    options = [
        '--settings={"masks": {}}',
        f"--images={tmp_path}/no.parquet",
        "--features=a",
        "--output=b",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "workflow_scripts.make_masks", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    remedy = "check the path, or run the stage that writes it"
    assert done.stderr == f"error: {tmp_path}/no.parquet: no such file; {remedy}\n"


def test_settings_are_json(capsys):
    with pytest.raises(SystemExit) as exit_:
        make_masks.main(["--settings={oops", "--images=a", "--features=b", "--output=c"])
    assert exit_.value.code == 2
    assert "--settings" in capsys.readouterr().err


def test_success_ends_with_zero():
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda argv: 0)
    assert exit_.value.code == 0


JOB = """
import sys, time
from workflow_scripts import cli

def main(argv):
    print("at work", flush=True)
    time.sleep(600)
    print("never ended", flush=True)

cli.run(main)
"""
SNAKEMAKE = """
import os, subprocess, sys
os.environ["MASKDISTILL_SNAKEMAKE"] = str(os.getpid())
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal of Linux")
def test_a_job_ends_with_its_snakemake():
    parent = subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE, JOB], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "at work\n"
    parent.kill()
    parent.wait()
    # `read` returns when all processes that have the pipe open, thus also the job, have ended.
    assert parent.stdout.read() == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal of Linux")
def test_a_job_whose_snakemake_is_gone_does_not_begin():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = subprocess.run(
        [sys.executable, "-c", JOB],
        cwd=REPOSITORY,
        env=os.environ | {"MASKDISTILL_SNAKEMAKE": str(gone.pid)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: Snakemake (process {gone.pid}) has ended, and this job ends with it; start "
        "snakemake again\n"
    )
