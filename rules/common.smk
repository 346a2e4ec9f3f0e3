# Config, wildcards and the helpers that several stages share.
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

HOME = Path(workflow.basedir)
sys.path.insert(0, str(HOME))

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.runs import frozen
from workflow_scripts.maskdistill.runs.failed_logs import FailedLogs
from workflow_scripts.maskdistill.runs.declared_settings import Declaration
from workflow_scripts.maskdistill.runs.shell_text import (
    AtStart,
    files_of,
    in_shell,
    one_of,
    option_text,
    program_start,
)
from workflow_scripts.maskdistill.runs.run import Run, parts_of, run_name
from workflow_scripts.maskdistill.runs.unreachable import unreachable_downloads
from workflow_scripts.maskdistill.runs.variants import BASELINES, MAIN
from workflow_scripts.maskdistill.settings.changes import canonical_json
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_in_round

# Threads that wait for others spin for some microseconds, then sleep. OpenMP's default of several
# milliseconds would take time from those they wait for when the machine does other things too;
# sleeping at once would wake them too late in loops over small tensors.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Jobs find the interpreter that runs Snakemake, and the package, from any directory.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    PYTHONPATH=os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")])),
    MASKDISTILL_SNAKEMAKE=str(os.getpid()),  # jobs on this machine end when this process ends
)

# Checksums of files that are published without any, recorded by the first download.
CHECKSUMS = shlex.quote(str(HOME / "resources" / "checksums.json"))

ARCHIVES = "data/archives"  # of datasets

# A run uses what its main process has parsed. Its jobs, also those that wait on a cluster and parse
# the rules anew, take all of it from a file, so that a config may be edited meanwhile.
try:
    FROZEN = frozen.this_run(config, HOME, is_main_process=workflow.is_main_process)
    RUN = Run(FROZEN, HOME)
    if workflow.is_main_process:
        RUN.check_listings()
    else:
        config.clear()
        config.update(FROZEN.config)
except InputError as error:
    raise WorkflowError(str(error))


envvars:
    frozen.VARIABLE,


# What has to be downloaded and cannot is said before anything else, and stops a run that needs it.
UNREACHABLE = {}
if workflow.is_main_process and not workflow.output_settings.dryrun:
    UNREACHABLE = unreachable_downloads(RUN, ARCHIVES)
    for line in UNREACHABLE.values():
        logger.warning(line)


onstart:
    if workflow.is_main_process:
        planned = {str(file) for job in workflow.dag.needrun_jobs() for file in job.output}
        if lacking := [line for file, line in UNREACHABLE.items() if file in planned]:
            raise WorkflowError("No job was started. " + "\n".join(lacking))
        frozen.write(FROZEN, os.environ[frozen.VARIABLE])


if workflow.is_main_process:
    logger.addHandler(FailedLogs(logger.error))
    for caution in frozen.cautions(FROZEN):
        logger.warning(caution)

CONFIGS = RUN.configs
RUNTIME = config["runtime"]


def of_dataset(text_of):
    """Text of a shell command that depends on the dataset of a run, as {DATASET:{wildcards.run}}."""
    return AtStart(lambda run: text_of(parts_of(run).dataset))


ALL = AtStart(lambda paths: in_shell(paths.split()))
ROOT = AtStart(lambda place: shlex.quote(RUN.root(place)))
MAX_REJECTED = of_dataset(RUN.max_rejected)
DATASET = of_dataset(str)
TRAIN = AtStart(program_start)
EVALUATED_SPLIT = of_dataset(RUN.evaluated_split)
INSTANCE_SPLIT = of_dataset(RUN.instance_split)
DEVICE = f"--device {RUNTIME['device']}"
BATCH = f"--batch-size {RUNTIME['batch_size']}"
CHECKPOINTS = f"--checkpoint-every {RUNTIME['checkpoint_every']}"
GPUS = 0 if RUNTIME["device"] == "cpu" else 1
# Of one training; its threads and memory are those of so many processes.
TRAINING_GPUS = GPUS * RUNTIME["gpus"]
TRAINING_PROCESSES = max(1, TRAINING_GPUS)


# A run is a dataset, or a variant of it for the ablations: results/DATASET/ablations/VARIANT.
wildcard_constraints:
    dataset=one_of(CONFIGS),
    run=one_of(run_name(name, one) for name in CONFIGS for one in (MAIN, *RUN.variants[name])),
    split=one_of([*datasets.SPLITS, *RUN.applied]),
    shard=r"\d{4}",
    seed=r"\d+",
    round=r"\d+",


def settings(*paths, **options):
    """A parameter: the settings that a rule depends on, see `Declaration`, as one canonical text."""
    declaration = Declaration(paths, **options)
    return lambda wildcards: RUN.settings(declaration, wildcards)


def runs_with(section, key, value):
    """A pattern of the runs of all datasets that have this value of a setting."""
    return one_of(
        run_name(name, one)
        for name, own in CONFIGS.items()
        if own[section][key] == value
        for one in (MAIN, *RUN.variants[name])
    )


def shards_of(dataset, split, folder):
    """The files of all shards of a split in a folder."""
    return [f"{folder}/{shard}.parquet" for shard in RUN.shards(dataset, split)]


def run_of(wildcards):
    """The run of a job, by the name of its folder in results."""
    return wildcards.get("run") or wildcards.dataset


def dataset_of(wildcards):
    """The dataset of a job."""
    return parts_of(run_of(wildcards)).dataset


def of_stage(stage, path):
    """An input function: a file of a stage, where the run has it from, see `Run.folder`."""
    return lambda wildcards: (
        f"{RUN.folder(run_of(wildcards), stage)}/{path.format(**dict(wildcards.items()))}"
    )


def all_shards(stage, folder, split_of=lambda dataset: "train"):
    """An input function: all shards of a stage, of the job's split or else that of the dataset."""

    def paths(wildcards):
        dataset = dataset_of(wildcards)
        split = wildcards.get("split", split_of(dataset))
        known = {**dict(wildcards.items()), "split": split}
        base = RUN.folder(run_of(wildcards), stage)
        return shards_of(dataset, split, f"{base}/{folder.format(**known)}")

    return paths


def weights_of(stage):
    """An input function: the local weights file of a stage, if there is one.

    Its time counts for nothing; `weights_digest` watches its content.
    """

    def path(wildcards):
        found = CONFIGS[dataset_of(wildcards)][stage]["weights"]
        return ancient(found) if found else []

    return path


def weights_digest(stage):
    """A parameter: digest of the weights of a stage, see `Run.weights_digest`."""
    return lambda wildcards: RUN.weights_digest(CONFIGS[dataset_of(wildcards)][stage]["weights"])


def attempts(size):
    """A resource that grows with every attempt; retries are the profile's business."""
    return lambda wildcards, attempt: size * attempt
