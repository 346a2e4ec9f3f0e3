"""Start a training on several GPUs of one node: --nproc-per-node GPUS -m PROGRAM OPTIONS…

This is PyTorch's torchrun, except that it ends when Snakemake ends: after kill -9 of Snakemake, the
training's processes receive SIGTERM and save a checkpoint.
"""

import sys

from torch.distributed import run

from workflow_scripts import cli

# Less than the 120 s that SLURM leaves between SIGTERM and SIGKILL (profiles/slurm).
SECONDS_TO_SAVE = 100


def main(argv: list[str] | None = None) -> int:
    """Run a training; torchrun itself exits with an error if a process fails."""
    options = sys.argv[1:] if argv is None else argv
    run.main(["--standalone", "--shutdown-timeout", str(SECONDS_TO_SAVE), *options])
    return 0


if __name__ == "__main__":
    cli.run(main)
