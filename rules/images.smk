# Which images there are, and which of them can be read.


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


@functools.cache
def images_by_shard(dataset, split):
    """Shard → its images, from one pass over all of them."""
    found, count = {}, shard_count(dataset, split)
    for image in listing(dataset, split):
        found.setdefault(datasets.shard_of(image.file_name, count), []).append(image)
    return found


def made_by_rule(dataset, split):
    """How data came here that are watched through a rule's output; None for the user's own."""
    if dataset_of(dataset, split).get("generate") is not None:
        return "generated"
    return "downloaded" if split not in APPLIED and is_downloaded(CONFIGS[dataset]) else None


def listing_digest(wildcards):
    """Digest of one shard's files: the shard is listed again when an image comes, goes or changes."""
    dataset, split = wildcards.dataset, wildcards.split
    if origin := made_by_rule(dataset, split):
        return origin

    def digest():
        images = images_by_shard(dataset, split).get(int(wildcards.shard), [])
        return datasets.listing_digest(images, Path(dataset_of(dataset, split)["root"]))

    return RUN.once(f"images of {dataset}, {split}, shard {wildcards.shard}", digest)


def settings_of_listing(wildcards):
    """What a job of list_images depends on."""
    return settings_of_split(wildcards.dataset, wildcards.split)


@functools.cache
def settings_of_split(dataset, split):
    """What the listing of a split depends on; it is the same for all shards."""
    described, images = dataset_of(dataset, split), image_count(dataset, split)
    return canonical_json(listing_settings(CONFIGS[dataset], described, split, images))


def generated_dataset(wildcards):
    """The marker of a generated dataset, if it is one."""
    if dataset_of(wildcards.dataset, wildcards.split).get("generate") is None:
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
        settings=settings_of_listing,
        code=code_of("list_images"),
        listing=listing_digest,
    message:
        "List images of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.list_images --settings {params.settings:q}"
        " --code {params.code}"
        " --listing {params.listing}"
        " --root {ROOTS:{wildcards.dataset}/{wildcards.split}} --split {wildcards.split}"
        " --shard {wildcards.shard} --max-rejected {TOLERATED:{wildcards.dataset}}"
        " --workers {threads} --output {output} > {log} 2>&1"
