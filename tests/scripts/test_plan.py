import json
import re

import pytest

from workflow_scripts import plan
from workflow_scripts.maskdistill.errors import InputError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def number(text, name):
    return re.search(rf"^{re.escape(name)} +(.+)$", text, flags=re.MULTILINE)[1]


@pytest.mark.workflow
def test_the_whole_plan_of_a_recipe(tmp_path, capsys):
    assert plan.main(["--dataset=voc2012"]) == 0
    text = capsys.readouterr().out
    assert "voc2012: 10,582 images (train), 1,449 images (val)" in text
    assert "voc2007: 9,963 images (train)" in text
    jobs, hours = number(text, "train_mask_rcnn").split()
    assert jobs == "5"
    assert float(hours) == pytest.approx(5 * 24_000 * 8 * 0.584 / 3600, rel=0.01)
    assert number(text, "download_dataset") == "2"
    assert number(text, "extract_features").split()[0] == str(3 * 32)
    features = (10_582 + 1_449 + 9_963) * 2160 * (2 * 384 + 4 * 6) / 1e9
    assert number(text, "features") == f"{features:.3g} GB"
    assert "0.584 s a step" in text
    assert "benchmark.tgz" in text.split("size is not published")[1]
    assert list(tmp_path.iterdir()) in ([], [tmp_path / ".snakemake"])  # nothing was started


def test_snakemakes_refusal_is_passed_on(tmp_path):
    (tmp_path / "mine.yaml").write_text("overrides: { masks: { topk: 1 } }")
    with pytest.raises(InputError, match=r"unknown key 'masks\.topk', did you mean 'top_k'"):
        plan.main(["--dataset=voc2012", "--configfile=mine.yaml"])


def test_another_table_of_seconds(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"oops": 1})[:-1])
    with pytest.raises(InputError, match=r"mine\.json: not valid JSON .*; check --throughput"):
        plan.main(["--dataset=voc2012", "--throughput=mine.json"])
