# Object masks from the affinities, and their embeddings.


def embedder_section(wildcards):
    """The section of the config that names the network for embeddings."""
    own = CONFIGS[dataset_of(wildcards)]["embedding"]["backbone"] is not None
    return "embedding" if own else "features"


def embedder_weights(wildcards):
    """The local weights file of the network for embeddings, if there is one."""
    return weights_of(embedder_section(wildcards))(wildcards)


def embedder_digest(wildcards):
    """Digest of the weights of the network for embeddings."""
    return weights_digest(embedder_section(wildcards))(wildcards)


rule make_masks:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        features=of_stage("images", "{split}/features/{shard}.parquet"),
    output:
        "results/{run}/{split}/masks/{shard}.parquet",
    log:
        "logs/{run}/{split}/masks/{shard}.log",
    benchmark:
        "benchmarks/{run}/{split}/masks/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=settings("masks"),
        code=RUN.code("make_masks"),
    message:
        "Make masks of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.make_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u} --images {input.images} --features {input.features}"
        " --output {output} > {log} 2>&1"


# For datasets with `store_features: false`, extract_masks computes features and masks in one job
# and does not store the features.
ruleorder: extract_masks > make_masks


rule extract_masks:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        weights=weights_of("features"),
    output:
        "results/{dataset}/{split}/masks/{shard}.parquet",
    log:
        "logs/{dataset}/{split}/masks/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/{split}/masks/{shard}.tsv"
    wildcard_constraints:
        dataset=one_of(name for name in CONFIGS if not CONFIGS[name]["store_features"]),
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(120),
    params:
        settings=settings("features", "masks", without=("features.tokens",)),
        code=RUN.code("extract_masks"),
        weights=weights_digest("features"),
    message:
        "Extract masks of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.extract_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}u} --images {input.images}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"


rule embed_masks:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        masks=of_stage("masks", "{split}/masks/{shard}.parquet"),
        weights=embedder_weights,
    output:
        "results/{run}/{split}/mask_embeddings/{shard}.parquet",
    log:
        "logs/{run}/{split}/mask_embeddings/{shard}.log",
    benchmark:
        "benchmarks/{run}/{split}/mask_embeddings/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(120),
    params:
        settings=settings(
            "features.backbone",
            "features.backbone_options",
            "features.weights",
            "features.shorter_side",
            "features.longer_side",
            "embedding",
        ),
        code=RUN.code("embed_masks"),
        weights=embedder_digest,
    message:
        "Embed masks of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.embed_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u} --images {input.images} --masks {input.masks}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"
