"""Run a training in float64: in_float64.py MODULE OPTIONS…

Two trainings then differ only by rounding errors in the 16th digit, which are too small to move any
value across a threshold (of NMS, of the hardest pixels, of ReLU). If the environment variable
STOP_AFTER is set, the training saves its state and ends after that step, as after SIGTERM.
"""

import importlib
import os
import sys

import torch


def stop_after(last: int) -> None:
    """Let every training save its state and end after step `last`."""
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
