"""Running out of memory is one line that says what to do."""

import numpy as np
import pytest
import torch

from workflow_scripts.maskdistill.errors import InputError, report_out_of_memory

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 10.94 MiB is free. Process 4711 has 79.10 GiB memory in use. Of the allocated memory "
    "78.29 GiB is allocated by PyTorch. See documentation for Memory Management  (https://…)"
)
THREAD = (
    "Caught AcceleratorError in pin memory thread for device 0.\nOriginal Traceback:\n  File a.py\n"
    "torch.AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be reported later."
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError(CUDA), r"of 79.11 GiB of which 10.94 MiB is free\); lower it"),
        (RuntimeError(THREAD), r"\(torch.AcceleratorError: CUDA error: out of memory\); lower"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "ALLOC_FAILED"),
        (RuntimeError("StandardGpuResources: alloc fail (cudaMalloc error out of memory [2])"), ""),
        (MemoryError(), r"out of memory \(MemoryError\); lower it"),
    ],
)
def test_a_failed_allocation_is_one_line(error, reason):
    with pytest.raises(InputError, match=reason) as found, report_out_of_memory("lower it"):
        raise error
    assert "\n" not in str(found.value)
    assert "Process" not in str(found.value)


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_what_this_machine_cannot_allocate(allocate):
    with pytest.raises(InputError, match=r"out of memory .*allocate.*; lower it$"):
        report_out_of_memory("lower it")(allocate)(2**55)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="size mismatch"), report_out_of_memory("lower it"):
        raise RuntimeError("size mismatch")
