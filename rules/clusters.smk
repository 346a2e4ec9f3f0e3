# Pseudo-classes from the embeddings of the masks.


def support_embeddings(wildcards):
    """Embeddings of the training masks of the datasets that support the clustering."""
    return [
        path
        for name in CONFIGS[wildcards.dataset]["clustering"]["support"]
        for path in shards_of(
            name, f"results/{name}/train/mask_embeddings/{{shard}}.parquet", "train"
        )
    ]


def support_images(wildcards):
    """Manifests of the same images."""
    return [
        path
        for name in CONFIGS[wildcards.dataset]["clustering"]["support"]
        for path in shards_of(name, f"results/{name}/train/images/{{shard}}.parquet", "train")
    ]


SUPPORT = ByDataset(
    {
        name: " ".join(
            f"--support results/{support}/train/mask_embeddings/{SHARDS[support]}.parquet"
            f" --support-images {TOLERATED[support]}"
            f" results/{support}/train/images/{SHARDS[support]}.parquet"
            for support in settings["clustering"]["support"]
        )
        for name, settings in CONFIGS.items()
    }
)


class ByPath(dict):
    """A value for some paths and nothing for others, filled in like that of `ByDataset`."""

    def __format__(self, path):
        return self.get(path, "")


# Whether the clusters are those that were named changes no result, only whether there is one.
EXPECTED = ByPath(
    {
        f"results/{name}/seed-{seed}/clusters/assignments.parquet": (
            f"--expected-assignments {digest}"
        )
        for name, named in NAMES.items()
        for seed, values in named.items()
        if (digest := values.get("assignments"))
    }
)


def assignments(wildcards):
    """Clusters of the masks of a split: those of `train` were clustered, others are assigned."""
    base = f"results/{wildcards.dataset}/seed-{wildcards.seed}"
    if wildcards.split == "train":
        return f"{base}/clusters/assignments.parquet"
    return f"{base}/{wildcards.split}/assignments/{wildcards.shard}.parquet"


rule cluster_masks:
    input:
        embeddings=all_shards("results/{dataset}/train/mask_embeddings/{shard}.parquet"),
        support=support_embeddings,
        support_images=support_images,
    output:
        assignments="results/{dataset}/seed-{seed}/clusters/assignments.parquet",
        centroids="results/{dataset}/seed-{seed}/clusters/centroids.parquet",
    log:
        "logs/{dataset}/seed-{seed}/clusters/assignments.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/clusters/assignments.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        mem_mb=attempts(8000),
        runtime=attempts(60),
    params:
        settings=settings_of("cluster_masks"),
        code=code_of("cluster_masks"),
    message:
        "Cluster masks of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.cluster_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --embeddings {ALL:{input.embeddings}}"
        " {SUPPORT:{wildcards.dataset}}"
        " --seed {wildcards.seed}"
        " --assignments {output.assignments} --centroids {output.centroids} > {log} 2>&1"


rule assign_masks:
    input:
        embeddings="results/{dataset}/{split}/mask_embeddings/{shard}.parquet",
        centroids="results/{dataset}/seed-{seed}/clusters/centroids.parquet",
    output:
        "results/{dataset}/seed-{seed}/{split}/assignments/{shard}.parquet",
    log:
        "logs/{dataset}/seed-{seed}/{split}/assignments/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/{split}/assignments/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        settings=settings_of("assign_masks"),
        code=code_of("assign_masks"),
    message:
        "Assign masks of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.assign_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --embeddings {input.embeddings} --centroids {input.centroids}"
        " --output {output} > {log} 2>&1"


rule paint_masks:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        masks="results/{dataset}/{split}/masks/{shard}.parquet",
        assignments=assignments,
    output:
        "results/{dataset}/seed-{seed}/{split}/initial_label_maps/{shard}.parquet",
    log:
        "logs/{dataset}/seed-{seed}/{split}/initial_label_maps/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/{split}/initial_label_maps/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        settings=settings_of("paint_masks"),
        code=code_of("paint_masks"),
    message:
        "Paint masks of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.paint_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --images {input.images} --masks {input.masks} --assignments {input.assignments}"
        " --output {output} > {log} 2>&1"


rule write_pseudo_labels:
    input:
        images=all_shards("results/{dataset}/train/images/{shard}.parquet"),
        masks=all_shards("results/{dataset}/train/masks/{shard}.parquet"),
        assignments="results/{dataset}/seed-{seed}/clusters/assignments.parquet",
    output:
        "results/{dataset}/seed-{seed}/pseudo_labels.json",
    log:
        "logs/{dataset}/seed-{seed}/pseudo_labels.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/pseudo_labels.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(8000),
        runtime=attempts(60),
    params:
        settings=settings_of("write_pseudo_labels"),
        code=code_of("write_pseudo_labels"),
    message:
        "Write pseudo-labels of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.write_pseudo_labels --settings {params.settings:q}"
        " --code {params.code}"
        " --images results/{wildcards.dataset}/train/images/{SHARDS:{wildcards.dataset}}.parquet"
        " --max-rejected {TOLERATED:{wildcards.dataset}} --masks {ALL:{input.masks}}"
        " --assignments {input.assignments} {EXPECTED:{input.assignments}}"
        " --output {output} > {log} 2>&1"


rule draw_contact_sheets:
    input:
        images=all_shards("results/{dataset}/train/images/{shard}.parquet"),
        masks=all_shards("results/{dataset}/train/masks/{shard}.parquet"),
        embeddings=all_shards("results/{dataset}/train/mask_embeddings/{shard}.parquet"),
        assignments="results/{dataset}/seed-{seed}/clusters/assignments.parquet",
        centroids="results/{dataset}/seed-{seed}/clusters/centroids.parquet",
    output:
        directory("results/{dataset}/seed-{seed}/contact_sheets"),
    log:
        "logs/{dataset}/seed-{seed}/contact_sheets.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/contact_sheets.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=settings_of("draw_contact_sheets"),
        code=code_of("draw_contact_sheets"),
    message:
        "Draw contact sheets of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.draw_contact_sheets --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOTS:{wildcards.dataset}}"
        " --images results/{wildcards.dataset}/train/images/{SHARDS:{wildcards.dataset}}.parquet"
        " --masks results/{wildcards.dataset}/train/masks/{SHARDS:{wildcards.dataset}}.parquet"
        " --embeddings"
        " results/{wildcards.dataset}/train/mask_embeddings/{SHARDS:{wildcards.dataset}}.parquet"
        " --assignments {input.assignments} --centroids {input.centroids} --seed {wildcards.seed}"
        " --output {output} > {log} 2>&1"


rule contact_sheets:
    input:
        [
            f"results/{dataset}/seed-{seed}/contact_sheets"
            for dataset in config["datasets"]
            for seed in CONFIGS[dataset]["seeds"]
        ],
