import json
import re

import pytest

from tests.rules.conftest import REPOSITORY, rules
from workflow_scripts import plan
from workflow_scripts.maskdistill.errors import InputError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


PROBES = {"predict_linear_probe", "refine_linear_probe"}  # `use rule`


def number(text, name):
    return re.search(rf"^  {re.escape(name)} +(.+)$", text, flags=re.MULTILINE)[1]


@pytest.mark.workflow
def test_the_whole_plan_of_a_recipe(tmp_path, capsys):
    assert plan.main(["--dataset=voc2012"]) == 0
    text = capsys.readouterr().out
    assert "voc2012: 10,582 images (train), 1,449 images (val), 2,913 images (instances)" in text
    assert "voc2007: 9,963 images (train)" in text
    jobs, hours = number(text, "train_mask_rcnn").split()
    assert jobs == "5"
    assert float(hours) == pytest.approx(5 * 24_000 * 8 * 0.584 / 3600, rel=0.01)
    assert number(text, "download_dataset").split() == ["2", "–"]
    assert number(text, "extract_features").split()[0] == str(3 + 1 + 1 + 3)
    features = (10_582 + 1_449 + 2_913 + 9_963) * 2160 * (2 * 384 + 4 * 6) / 1e9
    assert number(text, "features") == f"{features:.3g} GB"
    assert "0.584 s a step" in text
    assert float(number(text, "train_linear_probe").split()[1]) > 0
    jobs_of = text.partition("GPU hours\n")[2].partition("total")[0]
    hourless = {line.split()[0] for line in jobs_of.splitlines() if line.endswith(" –")}
    gpu_rules = set(json.loads((REPOSITORY / "resources" / "throughput.json").read_text())["rules"])
    # Every rule that asks for a GPU has hours, and no other.
    assert not hourless & gpu_rules
    asking = {rule for rule, text in rules().items() if "gpu=" in text}
    # The hours of train_vit_head follow from those of extract_features.
    assert gpu_rules == (asking - {"train_vit_head"}) | PROBES
    assert number(text, "data/weights/moco_v2_800ep_pretrain.pth.tar") == "369 MB"
    assert list(tmp_path.iterdir()) in ([], [tmp_path / ".snakemake"])  # nothing was started


def test_snakemakes_refusal_is_passed_on(tmp_path):
    (tmp_path / "mine.yaml").write_text("overrides: { masks: { topk: 1 } }")
    with pytest.raises(InputError, match=r"unknown key 'masks\.topk', did you mean 'top_k'"):
        plan.main(["--dataset=voc2012", "--configfile=mine.yaml"])


def test_another_table_of_seconds(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"oops": 1})[:-1])
    with pytest.raises(InputError, match=r"mine\.json: not valid JSON .*; check --throughput"):
        plan.main(["--dataset=voc2012", "--throughput=mine.json"])
