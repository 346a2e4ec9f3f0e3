# Which images there are, and which of them can be read.
from workflow_scripts.maskdistill import datasets


@functools.cache
def listing(dataset, split):
    """All images of a split."""
    settings = CONFIGS[dataset]["dataset"]
    return datasets.list_images(settings, Path(settings["root"]), split)


def check_listings():
    """Find missing lists, empty folders and the like before any job starts."""
    for name, settings in CONFIGS.items():
        if settings["dataset"]["generate"] is None and not is_downloaded(settings):
            for split in settings["dataset"]["splits"]:
                listing(name, split)


if workflow.is_main_process:  # not again in every job that goes to a cluster
    try:
        check_listings()
    except InputError as error:
        raise WorkflowError(str(error))


def listing_digest(wildcards):
    """Digest of one shard's files: the shard is listed again when an image comes, goes or changes.

    Data that a rule generates or downloads are watched through that rule's output instead.
    """
    settings = CONFIGS[wildcards.dataset]
    if settings["dataset"]["generate"] is not None:
        return "generated"
    if is_downloaded(settings):
        return "downloaded"
    images = datasets.images_of_shard(
        listing(wildcards.dataset, wildcards.split), int(wildcards.shard), settings["shards"]
    )
    return datasets.listing_digest(images, Path(settings["dataset"]["root"]))


def generated_dataset(wildcards):
    """The marker of a generated dataset, if it is one."""
    if CONFIGS[wildcards.dataset]["dataset"]["generate"] is None:
        return []
    return f"data/{wildcards.dataset}/complete.json"


rule list_images:
    input:
        generated_dataset,
        downloaded_files,
    output:
        "results/{dataset}/{split}/images/{shard}.parquet",
    log:
        "logs/{dataset}/{split}/images/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/{split}/images/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 2
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        settings=settings_of("list_images"),
        code=code_of("list_images"),
        listing=listing_digest,
    message:
        "List images of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.list_images --settings {params.settings:q}"
        " --root {ROOTS:{wildcards.dataset}} --split {wildcards.split} --shard {wildcards.shard}"
        " --workers {threads} --output {output} > {log} 2>&1"
