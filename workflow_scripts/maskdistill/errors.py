"""The exception for mistakes that the user can correct; running out of memory is one of them."""

import contextlib
import re
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input of the user: a file, a setting or a checkpoint.

    The message is a single line that names what is wrong and how to correct it; programs print it
    without a traceback.
    """


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
