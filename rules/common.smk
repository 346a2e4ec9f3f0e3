# Wildcards and the helpers that several stages share.
def of_dataset(text_of):
    """Text in a shell command that depends on the dataset, used as {DATASET:{wildcards.run}u}."""
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
# GPUs and processes of one training. A training asks for the threads and memory of all of its
# processes.
TRAINING_GPUS = GPUS * RUNTIME["gpus"]
TRAINING_PROCESSES = max(1, TRAINING_GPUS)


# The wildcard `run` is DATASET, or DATASET/ablations/VARIANT for a variant of the ablations.
wildcard_constraints:
    dataset=one_of(CONFIGS),
    run=one_of(run_name(name, one) for name in CONFIGS for one in (MAIN, *RUN.variants[name])),
    split=one_of([*datasets.SPLITS, *RUN.applied]),
    shard=r"\d{4}",
    seed=r"\d+",
    round=r"\d+",


def settings(*paths, **options):
    """A parameter: the settings that a rule depends on as canonical JSON, see `Declaration`."""
    declaration = Declaration(paths, **options)
    return lambda wildcards: RUN.settings(declaration, wildcards)


def runs_with(section, key, value):
    """A pattern that matches the runs of all datasets in which a setting has this value."""
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
    """The run that a job belongs to: the name of its folder in results."""
    return wildcards.get("run") or wildcards.dataset


def dataset_of(wildcards):
    """The dataset of a job."""
    return parts_of(run_of(wildcards)).dataset


def of_stage(stage, path):
    """An input function: a file of a stage, in the folder that the run reads it from.

    A variant may read it from the folder of its dataset, see `Run.folder`.
    """
    return lambda wildcards: (
        f"{RUN.folder(run_of(wildcards), stage)}/{path.format(**dict(wildcards.items()))}"
    )


def all_shards(stage, folder, split_of=lambda dataset: "train"):
    """An input function: all shards of a stage for one split.

    This is the split in the job's wildcards, or else the one that `split_of` gives for the dataset.
    """

    def paths(wildcards):
        dataset = dataset_of(wildcards)
        split = wildcards.get("split", split_of(dataset))
        known = {**dict(wildcards.items()), "split": split}
        base = RUN.folder(run_of(wildcards), stage)
        return shards_of(dataset, split, f"{base}/{folder.format(**known)}")

    return paths


def attempts(size):
    """A resource that grows with every attempt; the profile sets the number of attempts."""
    return lambda wildcards, attempt: size * attempt
