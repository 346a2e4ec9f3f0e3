import logging

import pytest
from snakemake.logging import logger

from workflow_scripts import stale


def test_a_download_belongs_to_no_dataset(tmp_path, capsys, monkeypatch):
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: "data/a.pth"\n'
        'rule download_file:\n    output: "data/{file}.pth"\n    shell: "exit 1"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert stale.main(["--cores", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == ["-", "download_file", "1", "not", "made", "yet:", "data/a.pth"]


def test_snakemake_that_cannot_plan_says_why(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        stale.main(["--snakefile", "none.smk", "--cores", "1"])
    assert end.value.code == 1
    printed = capfd.readouterr()
    assert "none.smk" in printed.out + printed.err
    assert not [f for f in logger.filters if isinstance(f, logging.Filter)]
