"""Run the GPU tests in parts that each take less than ten minutes, and print a table of results.

Measurements are kept in the folder --output, so that parts can be run one by one; --verdict prints
the table of all of them. Without a GPU every test is skipped, and the exit code is 0.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.gpu import verdict

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
# In the order that suits a new GPU best: basic parts come first.
PARTS = {
    "features": "features in three precisions, masks on the GPU, embeddings",
    "clusters": "k-means by FAISS",
    "segmentation": "DeepLab-v3: training, change of device, predictions, CRF",
    "mask_rcnn": "Mask R-CNN: training, change of device, candidates",
    "processes": "torchrun and NCCL",
    "memory": "out of memory",
    "workflow": "a small dataset through the whole workflow",
}


def main(argv: list[str] | None = None) -> int:
    """Run the parts, and print the results; the exit code is 0 if no test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    described = "; ".join(f"{name}: {what}" for name, what in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {described}")
    parser.add_argument(
        "--gpu-device",
        default="cuda",
        metavar="DEVICE",
        help="device to compare with the CPU; with cpu, only the tests themselves are tested",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "benchmarks" / "gpu-tests",
        help="folder for the measurements of each part",
    )
    parser.add_argument(
        "--verdict", action="store_true", help="run no test, print the results of earlier runs"
    )
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"there is no part {unknown[0]}; choose from {', '.join(PARTS)}")

    records = {part: options.output.resolve() / f"{part}.jsonl" for part in PARTS}
    codes = []
    if not options.verdict:
        options.output.mkdir(parents=True, exist_ok=True)
        codes = [
            run(part, records[part], options.gpu_device) for part in options.parts or list(PARTS)
        ]
    shown = options.parts or list(PARTS)
    if options.verdict:
        shown = [part for part in shown if records[part].exists()]
    print("\n".join(verdict.lines({part: verdict.read(records[part]) for part in shown})))
    return max(codes, default=0)


def run(part: str, record: Path, device: str) -> int:
    """Run the tests of one part, with their output; returns pytest's exit code."""
    record.unlink(missing_ok=True)
    print(f"== {part}: {PARTS[part]}", flush=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", str(FOLDER / f"test_{part}.py"), "-m", "gpu"]
    # Without tests/conftest.py, which imports libraries that the machine may not have.
    command += ["--confcutdir", str(FOLDER), "-p", "no:cacheprovider", "-v", "-rs", "-s"]
    environment = os.environ | {
        "MASKDISTILL_GPU_DEVICE": device,
        "MASKDISTILL_GPU_RECORD": str(record),
    }
    code = subprocess.run(command, cwd=REPOSITORY, env=environment).returncode
    print(f"== {part}: {time.perf_counter() - start:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
