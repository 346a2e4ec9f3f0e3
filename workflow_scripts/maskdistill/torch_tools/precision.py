"""The floating-point precisions that a setting may name."""

from typing import get_args

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.section import Precision

# The names are those of PyTorch. float32 is the default, because it is the only one that is fast on
# all machines. The same config thus gives the same result on a CPU and on a GPU, up to the order of
# floating-point sums.
PRECISIONS = get_args(Precision)


def check_precision(value: object, setting: str) -> None:
    """Raise an InputError that names `setting` unless the value is one of `PRECISIONS`."""
    if value not in PRECISIONS:
        raise InputError(f"{setting}: {value!r} is not one of {', '.join(PRECISIONS)}")
