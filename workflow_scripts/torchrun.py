"""Start a training on several GPUs of one node: --nproc-per-node GPUS -m PROGRAM OPTIONS…

This is PyTorch's torchrun, which ends with Snakemake here: kill -9 of Snakemake becomes SIGTERM for
the training's processes, which save a checkpoint.
"""

import sys

from torch.distributed import run

from workflow_scripts import cli

# Of the 120 s that SLURM gives between SIGTERM and the end (profiles/slurm).
SECONDS_TO_SAVE = 100


def main(argv: list[str] | None = None) -> int:
    """Run a training to its end; torchrun ends this process itself if one of them fails."""
    options = sys.argv[1:] if argv is None else argv
    run.main(["--standalone", "--shutdown-timeout", str(SECONDS_TO_SAVE), *options])
    return 0


if __name__ == "__main__":
    cli.run(main)
