"""Where the computation runs."""

import torch

from workflow_scripts.maskdistill.errors import InputError


def choose_device(name: str) -> torch.device:
    """The torch device for `--device`.

    Raises:
        InputError: CUDA is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("device cuda: this machine shows no CUDA GPU; use runtime.device: auto")
    return torch.device(name)
