"""The time that a job takes before its work begins: start of Python and imports."""

import subprocess
import sys
from collections.abc import Iterator

from tests.bench import Row, median_seconds

PROGRAMS = ("make_masks", "filter_candidates", "extract_features", "train_segmentation")


def rows() -> Iterator[Row]:
    """Seconds until `--help` is printed, compared with Python importing torch and timm."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    reference = median_seconds(lambda: run("-c", "import torch, timm"), repeats=3)
    for program in PROGRAMS:
        yield Row(
            what=f"start of {program}",
            value=median_seconds(
                lambda p=program: run("-m", f"workflow_scripts.{p}", "--help"), repeats=3
            ),
            unit="s",
            reference=reference,
            against="import torch and timm",
        )
