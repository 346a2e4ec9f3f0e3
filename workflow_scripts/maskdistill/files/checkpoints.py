"""Checkpoint files (.pth, .pt, .safetensors), read without unpickling code."""

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from workflow_scripts.maskdistill.errors import InputError


def read_checkpoint(path: str | os.PathLike, *, remedy: str) -> object:
    """The content of a .pth, .pt or .safetensors file, tensors on the CPU.

    Only tensors, plain values and containers are unpickled.

    Args:
        remedy: what to do if the file is missing or damaged, for the error message.

    Raises:
        InputError: missing, damaged or not a checkpoint.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        # Training checkpoints of DINO and MoCo also hold their command-line arguments.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except Exception as error:  # damaged files raise many types in PyTorch
        raise InputError(
            f"{path}: not a readable checkpoint ({_reason(error)}); {remedy}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _reason(error: Exception) -> str:
    """What is wrong with a checkpoint, without PyTorch's advice to unpickle untrusted objects."""
    if isinstance(error, KeyError):  # an unknown pickle instruction
        return "unknown format"
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    return (text.strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
