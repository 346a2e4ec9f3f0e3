import json

import numpy as np
import pytest
import torch

from tests.maskdistill.torch_tools.launching import torchrun
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.torch_tools import distributed

CPU = torch.device("cpu")

TWO_PROCESSES = """
import json, sys
import torch
from workflow_scripts.maskdistill.torch_tools import distributed

cpu = torch.device("cpu")
with distributed.process_group(cpu) as device:
    rank = distributed.rank()
    torch.manual_seed(rank)  # all processes must get the weights of the first one
    model = torch.nn.Linear(3, 2)
    parallel = distributed.parallel(model, device)
    inputs = torch.arange(12.0).reshape(4, 3)[2 * rank : 2 * rank + 2]
    parallel(inputs).square().mean().backward()
    found = {
        "rank": rank,
        "world_size": distributed.world_size(),
        "any": [distributed.any_process(flag, device) for flag in (False, rank == 1)],
        "means": distributed.means([rank, 2.0], device),
        "mean_counts": distributed.mean_counts([3 * rank, 0], device),
        "largest": distributed.largest([rank, 5 - rank], device),
        "gathered": [v.tolist() for v in distributed.gather(torch.arange(3 * rank))],
        "from_first": distributed.from_first({"step": 3, "x": torch.ones(2)} if not rank else None),
        "weight": model.weight.tolist(),
        "gradient": model.weight.grad.tolist(),
    }
    found["from_first"]["x"] = found["from_first"]["x"].tolist()
    with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
        json.dump(found, file)
"""


def test_two_processes_agree(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    torchrun(tmp_path / "two.py", tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, values in enumerate(found):
        assert values["rank"] == rank
        assert values["world_size"] == 2
        assert values["any"] == [False, True]
        assert values["means"] == [0.5, 2]
        assert values["mean_counts"] == [1.5, 1]
        assert values["largest"] == [1, 5]
        assert values["gathered"] == [[], [0, 1, 2]]
        assert values["from_first"] == {"step": 3, "x": [1, 1]}
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model(torch.arange(12.0).reshape(4, 3)).square().mean().backward()
    for values in found:
        np.testing.assert_allclose(values["weight"], model.weight.detach(), rtol=1e-6)
        np.testing.assert_allclose(values["gradient"], model.weight.grad, rtol=1e-5)


RESUMED = """
import sys
import torch
from workflow_scripts.maskdistill.torch_tools import distributed, training_run

with (
    distributed.process_group(torch.device("cpu")),
    training_run.training_run(sys.argv[1], {}, section="") as run,
):
    if run.writes:
        run.save({"step": 3, "network": {"weight": torch.ones(1, 1), "bias": torch.ones(1)}})
    else:  # only the first process needs the file, as others may be on other nodes
        training_run.read_checkpoint = None
    network = torch.nn.Linear(1, 1)
    assert run.resume({"network": network}) == 3
    assert network.weight.item() == network.bias.item() == 1
"""


def test_the_first_process_tells_the_others_of_the_checkpoint(tmp_path):
    (tmp_path / "resumed.py").write_text(RESUMED)
    torchrun(tmp_path / "resumed.py", tmp_path)


def test_one_process_is_a_no_op(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    model = torch.nn.Linear(2, 2)
    with distributed.process_group(CPU) as device:
        assert device == CPU
        assert distributed.parallel(model, device) is model
        assert distributed.any_process(True, device) is True
        assert distributed.means([2.5], device) == [2.5]
        assert distributed.mean_counts([3, 0], device) == [3, 1]
        assert distributed.largest([4, 2], device) == [4, 2]
        assert distributed.gather(torch.arange(2))[0].tolist() == [0, 1]
        assert distributed.provenance(device) == {"device": "cpu", "processes": 1}
        assert distributed.from_first("x") == "x"


def test_workers_are_shared_by_the_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert [distributed.share_of(workers) for workers in (0, 1, 3, 4)] == [0, 1, 1, 2]


def test_more_processes_than_gpus_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "2 training processes, but 1 GPUs here; set runtime.gpus"
    with (
        pytest.raises(InputError, match=message),
        distributed.process_group(torch.device("cuda")),
    ):
        pass
