# Wildcards and the helpers that several stages share.
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


def attempts(size):
    """A resource that grows with every attempt; retries are the profile's business."""
    return lambda wildcards, attempt: size * attempt
