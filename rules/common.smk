# Config, wildcards and the helpers that several stages share.
import datetime
import functools
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
from workflow_scripts.maskdistill.runs.code_digest import code_digest, rules_digest
from workflow_scripts.maskdistill.settings.changes import canonical_json
from workflow_scripts.maskdistill.settings.config import (
    listing_settings,
    report_settings,
    rule_settings,
)
from workflow_scripts.maskdistill.settings.splits import (
    evaluated_split,
    instance_split,
    is_downloaded,
    split_shards,
)
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_in_round

# Threads that wait for others spin some microseconds, then sleep. For some milliseconds, as is GNU
# OpenMP's default, they would take the time of those that they wait for on a machine that does other
# things too; sleeping at once, they would wake too late in loops over small tensors.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Jobs find the interpreter that runs Snakemake, and the package, from any directory.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    PYTHONPATH=os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")])),
    MASKDISTILL_SNAKEMAKE=str(os.getpid()),  # whose end is theirs
)

# Checksums of files that are published without any, recorded by the first download.
CHECKSUMS = shlex.quote(str(HOME / "resources" / "checksums.json"))

# A run goes by what its main process has parsed. Its jobs, also those that wait on a cluster and
# parse the rules anew, take all of it from a file: editing a config meanwhile is safe.
try:
    RULES = rules_digest(HOME)
    if workflow.is_main_process:
        RUN = frozen.parse(config, HOME, rules=RULES)
        os.environ[frozen.VARIABLE] = os.path.abspath(
            f".snakemake/runs/{datetime.datetime.now():%Y-%m-%dT%H-%M-%S}-{os.getpid()}.json"
        )
    else:
        RUN = frozen.read(os.environ.get(frozen.VARIABLE), rules=RULES)
        config.clear()
        config.update(RUN.config)
except InputError as error:
    raise WorkflowError(str(error))


envvars:
    frozen.VARIABLE,


onstart:
    if workflow.is_main_process:
        frozen.write(RUN, os.environ[frozen.VARIABLE])


if workflow.is_main_process:
    for caution in frozen.cautions(RUN):
        logger.warning(caution)

CONFIGS, NAMES, CATALOGUE = RUN.configs, RUN.names, RUN.catalogue
APPLIED = RUN.applied  # folders of new images as further splits: applied/NAME → folder


class ByDataset(dict):
    """A value for every dataset, in shell commands as {NAME:{wildcards.dataset}}.

    What is filled in this way is no parameter, and its change makes nothing stale.
    """

    def __format__(self, dataset):
        return self[dataset]


class Program:
    """How to start a training: {TRAIN:{resources.gpu}}, under torchrun with more than one GPU."""

    def __format__(self, gpus):
        if int(gpus) < 2:
            return "python -m"
        return f"python -m workflow_scripts.torchrun --nproc-per-node {gpus} -m"


TRAIN = Program()
# Where a copy of the images lies changes no result.
ROOTS = ByDataset({name: shlex.quote(c["dataset"]["root"]) for name, c in CONFIGS.items()})
for name, quoted in list(ROOTS.items()):
    ROOTS |= {f"{name}/{split}": quoted for split in datasets.SPLITS}
    ROOTS |= {f"{name}/{split}": shlex.quote(folder) for split, folder in APPLIED.items()}


# How many unusable images are tolerated changes no result, only whether there is one.
TOLERATED = ByDataset(
    {
        name: f"{found['max_rejected']} {found['max_rejected_count']}"
        for name, found in ((name, settings["images"]) for name, settings in CONFIGS.items())
    }
)


class ShardList:
    """Input files that are all shards of a stage, in shell commands as {ALL:{input.masks}}.

    The shell expands them; no file gives no text.
    """

    def __format__(self, paths):
        first, *others = paths.split() or [""]
        return f"{os.path.dirname(first)}/{{0000..{len(others):04d}}}.parquet" if first else ""


ALL = ShardList()
RUNTIME = config["runtime"]
# In shell commands, filled in when a job starts and thus no parameter either.
DEVICE = f"--device {RUNTIME['device']}"
BATCH = f"--batch-size {RUNTIME['batch_size']}"
CHECKPOINTS = f"--checkpoint-every {RUNTIME['checkpoint_every']}"
GPUS = 0 if RUNTIME["device"] == "cpu" else 1
# Of one training; its threads and memory are those of so many processes.
TRAINING_GPUS = GPUS * RUNTIME["gpus"]
TRAINING_PROCESSES = max(1, TRAINING_GPUS)


def one_of(values):
    """A pattern of exactly these values; of none, one that nothing matches."""
    return "|".join(map(re.escape, values)) or r"(?!)"


wildcard_constraints:
    dataset=one_of(CONFIGS),
    split=one_of([*datasets.SPLITS, *APPLIED]),
    shard=r"\d{4}",
    seed=r"\d+",
    round=r"\d+",


def names_of(wildcards):
    """Cluster → name, of the clusters of a job's seed, or else of the one that is shown."""
    seed = int(wildcards.get("seed", first_seed(wildcards.dataset)))
    return NAMES[wildcards.dataset].get(seed, {}).get("clusters", {})


def settings_of(rule):
    """What a rule depends on, as one canonical text: a function of the wildcards."""
    # All shards of a stage have the same.
    known = {}

    def settings(wildcards):
        key = wildcards.dataset, wildcards.get("seed")
        if key not in known:
            found = rule_settings(rule, CONFIGS[wildcards.dataset], names_of(wildcards))
            known[key] = canonical_json(found)
        return known[key]

    return settings


def code_of(rule):
    """Digest of the logic behind a rule's program, as it was when the run was started."""
    return RUN.once(f"code of {rule}", lambda: code_digest(f"workflow_scripts.{rule}", HOME))


def dataset_of(dataset, split):
    """How the images of a split are found: adapter, splits and root."""
    return datasets.described(CONFIGS[dataset]["dataset"], split, APPLIED)


@functools.cache
def listing(dataset, split):
    """All images of a split."""
    described = dataset_of(dataset, split)
    return datasets.list_images(described, Path(described["root"]), split)


def image_count(dataset, split):
    """Number of images of a folder of new images; None for the splits of a dataset."""
    if split not in APPLIED:
        return None
    return RUN.once(f"images of {split}", lambda: len(listing(dataset, split)))


def shard_count(dataset, split):
    """Number of shards of a split; small folders of new images have few."""
    described, images = dataset_of(dataset, split), image_count(dataset, split)
    if split in APPLIED or split in described["splits"]:
        return listing_settings(CONFIGS[dataset], described, split, images)["shards"]
    return split_shards(CONFIGS[dataset], split)


def shards_of(dataset, pattern, split):
    """The files of all shards; {{shard}} is filled in and other wildcards are left alone."""
    numbers = [f"{i:04d}" for i in range(shard_count(dataset, split))]
    return expand(pattern, shard=numbers, allow_missing=True)


def all_shards(pattern):
    """An input function: all shards of `pattern` of the dataset and split at hand."""
    return lambda wildcards: shards_of(wildcards.dataset, pattern, wildcards.get("split", "train"))


# All shards of DATASET/SPLIT, or those of `train` of DATASET, for the shell to expand: a command line
# may hold only so much text.
try:
    SHARDS = ByDataset(
        {
            f"{name}/{split}": f"{{0000..{shard_count(name, split) - 1:04d}}}"
            for name in CONFIGS
            for split in (*datasets.SPLITS, *APPLIED)
        }
    )
    SHARDS |= {name: SHARDS[f"{name}/train"] for name in CONFIGS}
except InputError as error:
    raise WorkflowError(str(error))


def weights_of(stage):
    """An input function: the local weights file of a stage, if there is one."""
    return lambda wildcards: CONFIGS[wildcards.dataset][stage]["weights"] or []


def first_seed(dataset):
    """The seed whose pictures are shown and unpacked."""
    return CONFIGS[dataset]["seeds"][0]


def last_round(dataset):
    """The number of the last training round of the segmentation model."""
    return CONFIGS[dataset]["crf"]["rounds"]


def final_predictions(dataset):
    """Name of the folder of the predictions that count in the end."""
    return "predictions_crf" if CONFIGS[dataset]["crf"]["enabled"] else "predictions"


def has_ground_truth(dataset):
    """Whether there is anything to evaluate with."""
    return CONFIGS[dataset]["dataset"]["ground_truth"]


def has_linear_probe(dataset):
    """Whether the linear protocol is part of the evaluation."""
    enabled = CONFIGS[dataset]["evaluation"]["linear_probe"]["enabled"]
    return has_ground_truth(dataset) and enabled


def targets(dataset):
    """What `snakemake all` makes of a dataset."""
    base = f"results/{dataset}"
    seed, split = first_seed(dataset), evaluated_split(CONFIGS[dataset])
    files = [
        f"{base}/report.html",
        f"{base}/label_maps",
        f"{base}/predictions",
        f"{base}/seed-{seed}/{split}/candidates.json",
        *(f"{base}/seed-{one}/use.json" for one in CONFIGS[dataset]["seeds"]),
    ]
    return files + [f"{base}/metrics.json"] if has_ground_truth(dataset) else files


def attempts(size):
    """A resource that grows with every attempt; retries are the profile's business."""
    return lambda wildcards, attempt: size * attempt
