"""torchrun with one process, and with two if there are two GPUs; NCCL's collectives."""

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.needs("pycocotools", "filelock")]


def processes_there(device, count):
    """Skip the test if the machine has fewer than `count` GPUs."""
    import torch

    if device.type == "cuda" and torch.cuda.device_count() < count:
        pytest.skip(f"this machine has {torch.cuda.device_count()} GPU, not {count}")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["train_segmentation", "train_mask_rcnn"])
def test_torchrun_does_not_change_a_training(device, judge, tmp_path, name, count):
    """Compare with one process without torchrun on the same device, in float64."""
    import importlib

    from tests.gpu import trainings
    from tests.maskdistill.torch_tools.launching import UNEVEN_MASK_RCNN

    processes_there(device, count)
    program = importlib.import_module(f"workflow_scripts.{name}")
    changes = {"epochs": 10}
    if name == "train_mask_rcnn":
        changes = UNEVEN_MASK_RCNN | {"iterations": trainings.STEPS}
    reference = trainings.train(program, tmp_path / "alone", str(device), **changes)
    folder = tmp_path / "torchrun"
    command = trainings.float64_command(program, folder, str(device), **changes)
    trainings.run(command, processes=count)
    what = f"{name}, torchrun, processes: {count}"
    trainings.compare(judge, what, reference, folder)


def test_more_processes_than_gpus_are_one_line(device, tmp_path):
    import torch

    from tests.gpu import trainings
    from workflow_scripts import train_segmentation as program

    if device.type != "cuda":
        pytest.skip("CPUs take any number of processes")
    count = torch.cuda.device_count() + 1
    command = trainings.float64_command(
        program, tmp_path / "many", str(device), epochs=1, batch_size=count
    )
    with pytest.raises(AssertionError, match=f"{count} training processes, but {count - 1} GPUs"):
        trainings.run(command, processes=count)


COLLECTIVES = """
import copy, os, sys
import torch
from torch import nn
from workflow_scripts.maskdistill.torch_tools import distributed

torch.Tensor.float = torch.Tensor.double  # for code that converts values to float32
device = torch.device(sys.argv[1])
if device.type == "cuda":
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
torch.manual_seed(0)
batch = torch.randn(4, 3, 16, 16, dtype=torch.float64)
plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3)).double()
network = copy.deepcopy(plain).to(device)
torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
# Pretend two processes, so that this process runs the code for several.
distributed.world_size = lambda: 2
parallel = distributed.parallel(network, device)
parallel(batch.to(device)).square().mean().backward()
plain(batch).square().mean().backward()
for one, two in zip(plain.parameters(), network.parameters(), strict=True):
    torch.testing.assert_close(two.grad.cpu(), one.grad, rtol=1e-9, atol=1e-12)
assert distributed.any_process(True, device) and not distributed.any_process(False, device)
assert distributed.means([4.0, 8.0], device) == [2.0, 4.0]  # divided by the two processes
assert distributed.largest([3, 5], device) == [3, 5]
distributed.world_size = lambda: 1
values = torch.arange(5, device=device)
parts = [torch.empty_like(values)]
torch.distributed.all_gather(parts, values)
assert torch.equal(parts[0], values)
content = [{"weights": torch.ones(3), "step": 7}]
torch.distributed.broadcast_object_list(content, src=0)
assert content[0]["step"] == 7
torch.distributed.destroy_process_group()
"""


def test_collectives_of_a_group_of_one(device, tmp_path):
    """The operations of several processes (NCCL on GPUs), in a group of only one process."""
    from tests.gpu import trainings

    (tmp_path / "collectives.py").write_text(COLLECTIVES)
    trainings.run([str(tmp_path / "collectives.py"), str(device)], processes=1)
