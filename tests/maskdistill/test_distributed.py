import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts import train_segmentation
from workflow_scripts.maskdistill import distributed, label_maps, shards

CPU = torch.device("cpu")

TWO_PROCESSES = """
import json, sys
import torch
from workflow_scripts.maskdistill import distributed

cpu = torch.device("cpu")
with distributed.process_group(cpu) as device:
    rank = distributed.rank()
    torch.manual_seed(rank)  # the weights of the first process must win
    model = torch.nn.Linear(3, 2)
    parallel = distributed.parallel(model, device)
    inputs = torch.arange(12.0).reshape(4, 3)[2 * rank : 2 * rank + 2]
    parallel(inputs).square().mean().backward()
    found = {
        "rank": rank,
        "world_size": distributed.world_size(),
        "any": [distributed.any_process(flag, device) for flag in (False, rank == 1)],
        "mean": distributed.mean(float(rank), device),
        "from_first": distributed.from_first({"step": 3, "x": torch.ones(2)} if not rank else None),
        "weight": model.weight.tolist(),
        "gradient": model.weight.grad.tolist(),
    }
    found["from_first"]["x"] = found["from_first"]["x"].tolist()
    with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
        json.dump(found, file)
"""


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command += ["--nproc-per-node", "2", *map(str, arguments)]
    subprocess.run(command, env=environment, check=True, timeout=300)


def test_two_processes_agree(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    torchrun(tmp_path / "two.py", tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, values in enumerate(found):
        assert values["rank"] == rank
        assert values["world_size"] == 2
        assert values["any"] == [False, True]
        assert values["mean"] == 0.5
        assert values["from_first"] == {"step": 3, "x": [1, 1]}
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model(torch.arange(12.0).reshape(4, 3)).square().mean().backward()
    for values in found:
        np.testing.assert_allclose(values["weight"], model.weight.detach(), rtol=1e-6)
        np.testing.assert_allclose(values["gradient"], model.weight.grad, rtol=1e-5)


def test_one_process_is_a_no_op(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    model = torch.nn.Linear(2, 2)
    with distributed.process_group(CPU) as device:
        assert device == CPU
        assert distributed.parallel(model, device) is model
        assert distributed.any_process(True, device) is True
        assert distributed.mean(2.5, device) == 2.5
        assert distributed.from_first("x") == "x"


def test_segmentation_learns_alike_in_one_process_and_in_two(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        labels = np.zeros((48, 48), np.uint8)
        labels[:, rng.integers(12, 36) :] = 1
        image = np.array([[60, 60, 60], [200, 120, 30]])[labels] + rng.integers(0, 30, (48, 48, 3))
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(label_maps.row(number, f"{number}.png", labels))
    shards.write_table(tmp_path / "label_maps.parquet", "label_maps", rows, {})
    settings = {
        "depth": 18,
        "output_stride": 16,
        "frozen_stages": 0,
        "atrous_rates": [1],
        "head_width": 16,
        "epochs": 12,
        "batch_size": 8,
        "learning_rate": 0.05,
        "learning_rate_milestones": [10],
        "crop_size": 48,
        "scale": [1, 1],
        "hardest_fraction": 1.0,
    }
    nested = {"segmentation": settings, "clustering": {"clusters": 1}}

    def arguments(name):
        return [
            *("--label-maps", tmp_path / "label_maps.parquet", "--root", tmp_path),
            *("--work-dir", tmp_path / name / "work", "--model", tmp_path / name / "model.pt"),
            *("--history", tmp_path / name / "history.csv", "--seed", 0),
            *("--settings", json.dumps(nested), "--device", "cpu", "--workers", 0),
        ]

    train_segmentation.main(list(map(str, arguments("one"))))
    torchrun("-m", "workflow_scripts.train_segmentation", *arguments("two"))
    one, two = (
        np.loadtxt(tmp_path / name / "history.csv", delimiter=",", skiprows=1)
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 12  # as many steps: the batch is shared, not doubled
    np.testing.assert_array_equal(one[:, 2], two[:, 2])
    # Not equal: on CPUs batch statistics are each process's own, and so is dropout.
    assert two[0, 1] == pytest.approx(one[0, 1], rel=0.1)
    assert two[:, 1].mean() == pytest.approx(one[:, 1].mean(), rel=0.2)
    assert two[-3:, 1].mean() < 0.8 * two[0, 1]
    (run,) = (tmp_path / "two" / "work").iterdir()  # the first process alone writes
    assert {path.name for path in run.iterdir()} >= {"last.pt", "history.jsonl"}
