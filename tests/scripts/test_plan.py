import json
import re
from pathlib import Path

import pytest

from tests.rules.conftest import REPOSITORY, rules
from workflow_scripts import plan
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.runs import schedule


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


GPU = schedule.Machine("a GPU", 24_000_000_000, 8, 64_000_000_000)
LAPTOP = schedule.Machine(None, 0, 4, 16_000_000_000)
PROBES = {"predict_linear_probe", "refine_linear_probe"}  # made from other rules by `use rule`


def number(text, name):
    return re.search(rf"^  {re.escape(name)} +(.+)$", text, flags=re.MULTILINE)[1]


@pytest.mark.workflow
def test_the_whole_plan_of_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(schedule, "this_machine", lambda: GPU)
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
    # Exactly the rules that ask for a GPU have hours.
    assert not hourless & gpu_rules
    asking = {rule for rule, text in rules().items() if "gpu=" in text}
    # train_vit_head has no measurement; its hours are computed from those of extract_features.
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


def plan_of_photographs(overrides, machine, monkeypatch, capsys):
    """The plan for 20 photographs of a user, with given jobs instead of Snakemake's."""
    Path("photographs").mkdir()
    for number in range(20):
        Path("photographs", f"{number}.png").touch()
    Path("config/datasets").mkdir(parents=True)
    dataset = {"root": "photographs", "splits": {"train": "."}}
    Path("config/datasets/mine.yaml").write_text(json.dumps({"dataset": dataset, **overrides}))
    monkeypatch.setattr(schedule, "this_machine", lambda: machine)
    monkeypatch.setattr(plan, "planned_jobs", lambda *_: {"train_mask_rcnn": 5, "cluster_masks": 5})
    assert plan.main(["--dataset=mine"]) == 0
    return capsys.readouterr().out


RANDOM = {"preset": None, "mask_rcnn": {"weights": None}, "segmentation": {"weights": None}}


def test_a_training_from_random_numbers_on_a_processor_is_said_to_be_no_good(monkeypatch, capsys):
    text = plan_of_photographs(RANDOM, LAPTOP, monkeypatch, capsys)
    _, on_gpu, on_processor = number(text, "train_mask_rcnn").split()
    assert float(on_processor) == pytest.approx(
        schedule.CORE_SLOWDOWN / 4 * float(on_gpu), rel=0.01
    )
    assert "GPU hours  hours on 4 CPU cores" in text
    assert number(text, "cluster_masks").split() == ["5", "–", "–"]
    (line,) = re.findall(r"^warning: mask_rcnn\.weights is null.*", text, flags=re.MULTILINE)
    assert f"takes {float(on_processor):g} hours, and the result will not be good" in line
    assert "warning: segmentation.weights is null" in text


@pytest.mark.parametrize(
    ("overrides", "machine"),
    [(RANDOM, GPU), ({"preset": "quick"}, LAPTOP)],
)
def test_a_gpu_or_weights_need_no_such_words(overrides, machine, monkeypatch, capsys):
    text = plan_of_photographs(overrides, machine, monkeypatch, capsys)
    assert "will not be good" not in text
    assert ("CPU cores" in text) == (machine.gpu is None)
