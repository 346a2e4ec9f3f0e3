# Config, wildcards and the helpers that several stages share.
import functools
import hashlib
import math
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

HOME = Path(workflow.basedir)
sys.path.insert(0, str(HOME))

from workflow_scripts.maskdistill import datasets
from workflow_scripts.maskdistill.catalogue import dataset_source, read_catalogue
from workflow_scripts.maskdistill.code_digest import code_digest
from workflow_scripts.maskdistill.config import (
    canonical_json,
    check_support,
    curated,
    dataset_config,
    evaluated_split,
    instance_split,
    is_downloaded,
    names_cautions,
    read_names,
    report_settings,
    rule_settings,
    split_shards,
    validate,
)
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.step_titles import of_round

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

SCHEMAS = HOME / "config" / "schemas"
# Datasets of the working directory go before those of the repository; mostly they are the same.
DATASET_FOLDERS = [Path("config/datasets"), HOME / "config" / "datasets"]
# Checksums of files that are published without any, recorded by the first download.
CHECKSUMS = shlex.quote(str(HOME / "resources" / "checksums.json"))
NAME_FOLDERS = [Path("config/names"), HOME / "config" / "names"]


def load_configs():
    """The configs of all active datasets and of those that support their clustering."""
    configs, waiting = {}, list(config["datasets"])
    while waiting:
        name = waiting.pop(0)
        if name not in configs:
            configs[name] = dataset_config(
                name,
                config,
                DATASET_FOLDERS,
                SCHEMAS / "dataset.schema.yaml",
                downloadable=CATALOGUE["files"],
            )
            waiting += configs[name]["clustering"]["support"]
            generated = configs[name]["dataset"]["generate"] is not None
            root = configs[name]["dataset"]["root"]
            if generated and root != f"data/{name}":
                raise InputError(f"{name}: dataset.root of generated scenes must be data/{name}")
            if is_downloaded(configs[name]):
                dataset_source(configs[name]["dataset"]["download"], CATALOGUE)
            elif not generated and not Path(root).is_dir():
                raise InputError(
                    f"{name}: there is no folder {root}; set dataset.root in "
                    f"config/datasets/{name}.yaml to where the images lie"
                )
    for name in configs:
        check_support(name, configs)
    return configs


def load_names(dataset):
    """Names of the clusters of a dataset: seed → what config/names/DATASET.yaml says of it."""
    paths = [folder / f"{dataset}.yaml" for folder in NAME_FOLDERS]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return {}
    found = read_names(path, SCHEMAS / "names.schema.yaml")
    for values in found.values():
        try:
            curated(CONFIGS[dataset], values["clusters"])
        except InputError as error:
            raise InputError(f"{path}: {error}")
    if workflow.is_main_process:
        for caution in names_cautions(CONFIGS[dataset], found):
            logger.warning(f"{path}: {caution}")
    return found


try:
    validate(config, SCHEMAS / "workflow.schema.yaml", source="config")
    CATALOGUE = read_catalogue(
        HOME / "resources" / "downloads.yaml", SCHEMAS / "downloads.schema.yaml"
    )
    CONFIGS = load_configs()
    NAMES = {name: load_names(name) for name in CONFIGS}
except InputError as error:
    raise WorkflowError(str(error))


def applied_folders():
    """Folders of new images as further splits, named applied/NAME: split → folder."""
    folders = [config["apply"]] if isinstance(config["apply"], str) else config["apply"]
    found = {}
    for folder in map(Path, folders):
        name = re.sub(r"[^\w.-]+", "_", folder.resolve().name) or "root"
        split = f"applied/{name}"
        if not folder.is_dir():
            raise InputError(f"apply: there is no folder {folder}")
        if split in found:
            raise InputError(f"apply: {folder} and {found[split]} have the same name; rename one")
        found[split] = folder
    return found


try:
    APPLIED = applied_folders()
except InputError as error:
    raise WorkflowError(str(error))


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
    ROOTS |= {f"{name}/{split}": shlex.quote(str(folder)) for split, folder in APPLIED.items()}


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
    """Digest of the logic behind a rule's program."""
    return code_digest(f"workflow_scripts.{rule}", HOME)


def dataset_of(dataset, split):
    """How the images of a split are found: adapter, splits and root."""
    if split in APPLIED:
        return {"adapter": "folder", "splits": {split: "."}, "root": str(APPLIED[split])}
    return CONFIGS[dataset]["dataset"]


@functools.cache
def listing(dataset, split):
    """All images of a split."""
    described = dataset_of(dataset, split)
    return datasets.list_images(described, Path(described["root"]), split)


def shard_count(dataset, split):
    """Number of shards of a split; small folders of new images have few."""
    count = split_shards(CONFIGS[dataset], split)
    return min(count, math.ceil(len(listing(dataset, split)) / 500)) if split in APPLIED else count


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
    ]
    return files + [f"{base}/metrics.json"] if has_ground_truth(dataset) else files


def digest_of(*paths):
    """Digest of files of this repository that a rule reads: a parameter like `code_of`.

    As inputs their paths would be others in another checkout.
    """
    contents = b"".join((HOME / path).read_bytes() for path in paths)
    return hashlib.sha256(contents).hexdigest()[:16]


def attempts(size):
    """A resource that grows with every attempt; retries are the profile's business."""
    return lambda wildcards, attempt: size * attempt
