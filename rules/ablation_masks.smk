# Masks and clusters of the variants, and of the baselines DINO-seg and LOST.


use rule make_masks as make_variant_masks with:
    output:
        "results/{dataset}/ablations/{variant,top_k-[^/]+}/{split}/masks/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/{split}/masks/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/{split}/masks/{shard}.tsv"
    message:
        "Make masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


BASELINE_SETTINGS = {
    "dino_seg": settings("evaluation.ablations.dino_seg_mass"),
    "lost": settings("masks.center_keys", "evaluation.ablations.lost_patches"),
}


rule find_baseline_masks:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        features="results/{dataset}/{split}/features/{shard}.parquet",
    output:
        "results/{dataset}/ablations/{baseline}/{split}/masks/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{baseline}/{split}/masks/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{baseline}/{split}/masks/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=lambda wildcards: BASELINE_SETTINGS[wildcards.baseline](wildcards),
        code=RUN.code("find_baseline_masks"),
    message:
        "Find masks of {wildcards.dataset} {wildcards.split} by {wildcards.baseline}"
    shell:
        "exec python -m workflow_scripts.find_baseline_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --baseline {wildcards.baseline} --images {input.images} --features {input.features}"
        " --output {output} > {log} 2>&1"


use rule embed_masks as embed_variant_masks with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        masks="results/{dataset}/ablations/{variant}/{split}/masks/{shard}.parquet",
        weights=embedder_weights,
    output:
        "results/{dataset}/ablations/{variant}/{split}/mask_embeddings/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/{split}/mask_embeddings/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/{split}/mask_embeddings/{shard}.tsv"
    message:
        "Embed masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


use rule cluster_masks as cluster_variant_masks with:
    input:
        embeddings=shards_of_variant("masks", "train/mask_embeddings", "train"),
        support=support_shards("mask_embeddings"),
        support_images=support_shards("images"),
    output:
        assignments="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.parquet",
        centroids="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/centroids.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.tsv"
    message:
        "Cluster masks of {wildcards.dataset}, variant {wildcards.variant}, seed {wildcards.seed}"


use rule assign_masks as assign_variant_masks with:
    input:
        embeddings=of_variant("masks", "{split}/mask_embeddings/{shard}.parquet"),
        centroids="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/centroids.parquet",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/{split}/assignments/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/assignments/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/assignments/{shard}.tsv"
    message:
        "Assign masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


def variant_assignments(wildcards):
    """Clusters of the masks of a shard in a variant, or of all where objects are evaluated."""
    base = f"results/{wildcards.dataset}/ablations/{wildcards.variant}/seed-{wildcards.seed}"
    split = wildcards.get("split", RUN.instance_split(wildcards.dataset))
    if split == "train":
        return f"{base}/clusters/assignments.parquet"
    if hasattr(wildcards, "shard"):
        return f"{base}/{split}/assignments/{wildcards.shard}.parquet"
    return shards_of(wildcards.dataset, split, f"{base}/{split}/assignments")


use rule paint_masks as paint_variant_masks with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        masks=of_variant("masks", "{split}/masks/{shard}.parquet"),
        assignments=variant_assignments,
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/{split}/initial_label_maps/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/initial_label_maps/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/initial_label_maps/{shard}.tsv"
    message:
        "Paint masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"
