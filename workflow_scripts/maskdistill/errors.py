"""Exceptions for mistakes that the user can correct and for unusable images; lines of messages."""

import contextlib
import re
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input of the user: a file, a setting or a checkpoint.

    The message is a single line that names what is wrong and how to correct it; programs print it
    without a traceback.
    """


class ImageRejected(Exception):
    """An unusable image; the message is the reason, for the column `status`."""


def one_line(error: Exception) -> str:
    """The message of an error in one line, without the path of a system's error."""
    # The path in the message of a system's error may be long, and stands next to it anyway.
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextlib.contextmanager
def report_out_of_memory(remedy: str) -> Iterator[None]:
    """Turn a failed allocation, on a GPU or in main memory, into an `InputError`; a decorator, too.

    PyTorch has a class for it (`torch.OutOfMemoryError`), but its libraries for convolutions and
    matrix products, its loading threads and FAISS raise other types, which the message tells apart.

    Args:
        remedy: what to do about it, for the message.

    Raises:
        InputError: an allocation failed within the block. Other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _FAILED_ALLOCATION.search(str(error))):
            raise
        raise InputError(f"out of memory ({_reason(error)}); {remedy}") from error


# Of PyTorch on a GPU and on a CPU, of cuDNN and cuBLAS, and of FAISS.
_FAILED_ALLOCATION = re.compile(r"out of memory|allocate memory|not enough memory|_ALLOC_FAILED")
# PyTorch adds advice about its allocator, and other threads the traceback of their own error.
_ADVICE = re.compile(
    r" (Process \d+ has|Including non-PyTorch|Of the allocated|If reserved|See documentation).*"
)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if _FAILED_ALLOCATION.search(line)]
    text = lines[0] if lines else str(error) or type(error).__name__
    return _ADVICE.sub("", " ".join(text.split())).rstrip(".")


def printable(name: str) -> str:
    """A file name for a line of text: with escapes if it has line breaks or the like."""
    return name if name.isprintable() else repr(name)
