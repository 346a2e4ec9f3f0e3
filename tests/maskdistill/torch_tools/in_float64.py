"""Run a training in float64: in_float64.py MODULE OPTIONS…

Two trainings then differ by the order of sums of 16 digits: nothing comes near enough to a
threshold (of NMS, of the hardest pixels, of ReLU) to fall on its other side. With STOP_AFTER in the
environment, the training is asked to end after that step, as by SIGTERM.
"""

import importlib
import os
import sys

import torch


def stop_after(last: int) -> None:
    """Let every training save its state and end after that step."""
    from workflow_scripts.maskdistill.torch_tools.training_run import TrainingRun

    record = TrainingRun.record

    def record_and_stop(run, *, step, **values):
        record(run, step=step, **values)
        if step == last:
            run.request_stop()

    TrainingRun.record = record_and_stop


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    if "STOP_AFTER" in os.environ:
        stop_after(int(os.environ["STOP_AFTER"]))
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
