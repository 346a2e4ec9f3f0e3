# Pseudo-classes from the embeddings of the masks.


def support_shards(stage):
    """An input function: training shards of the datasets that support the clustering."""
    return lambda wildcards: [
        path
        for name in CONFIGS[dataset_of(wildcards)]["clustering"]["support"]
        for path in shards_of(name, "train", f"results/{name}/train/{stage}")
    ]


def support_options(dataset):
    """Command-line options with the shards of the datasets that support the clustering."""
    options = []
    for name in CONFIGS[dataset]["clustering"]["support"]:
        embeddings, images = (
            in_shell(shards_of(name, "train", f"results/{name}/train/{stage}"))
            for stage in ("mask_embeddings", "images")
        )
        options += [f"--support {embeddings}"]
        options += [f"--support-images {RUN.max_rejected(name)} {images}"]
    return " ".join(options)


def expected_assignments(path):
    """The option that stops a job if its clusters are not the ones that the user has named."""
    found = re.fullmatch(r"results/([^/]+)/seed-(\d+)/clusters/assignments\.parquet", path)
    digest = RUN.expected_assignments(found[1], int(found[2])) if found else None
    return f"--expected-assignments {digest}" if digest else ""


SUPPORT = of_dataset(support_options)
EXPECTED_ASSIGNMENTS = AtStart(expected_assignments)


def assignments(wildcards):
    """Files with the clusters of the masks of a shard, or of the split for AP of masks.

    Masks of `train` have their clusters from k-means; masks of other splits are assigned to the
    nearest of these clusters.
    """
    dataset = dataset_of(wildcards)
    split = wildcards.get("split", RUN.instance_split(dataset))
    base = f"{RUN.folder(wildcards.run, 'clusters')}/seed-{wildcards.seed}"
    if split == "train":
        return f"{base}/clusters/assignments.parquet"
    if hasattr(wildcards, "shard"):
        return f"{base}/{split}/assignments/{wildcards.shard}.parquet"
    return shards_of(dataset, split, f"{base}/{split}/assignments")


rule cluster_masks:
    input:
        embeddings=all_shards("masks", "train/mask_embeddings"),
        support=support_shards("mask_embeddings"),
        support_images=support_shards("images"),
    output:
        assignments="results/{run}/seed-{seed}/clusters/assignments.parquet",
        centroids="results/{run}/seed-{seed}/clusters/centroids.parquet",
    log:
        "logs/{run}/seed-{seed}/clusters/assignments.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/clusters/assignments.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        mem_mb=attempts(8000),
        runtime=attempts(60),
    params:
        settings=settings(
            "clustering.clusters",
            "clustering.metric",
            "clustering.standardize",
            "clustering.iterations",
            "clustering.redo",
            "clustering.max_points",
            merged=False,
        ),
        code=RUN.code("cluster_masks"),
    message:
        "Cluster masks of {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.cluster_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --embeddings {ALL:{input.embeddings}u}"
        " {SUPPORT:{wildcards.run}u}"
        " --seed {wildcards.seed}"
        " --assignments {output.assignments} --centroids {output.centroids} > {log} 2>&1"


rule assign_masks:
    input:
        embeddings=of_stage("masks", "{split}/mask_embeddings/{shard}.parquet"),
        centroids="results/{run}/seed-{seed}/clusters/centroids.parquet",
    output:
        "results/{run}/seed-{seed}/{split}/assignments/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/{split}/assignments/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{split}/assignments/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        settings=settings("clustering.metric", "clustering.standardize"),
        code=RUN.code("assign_masks"),
    message:
        "Assign masks of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.assign_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --embeddings {input.embeddings} --centroids {input.centroids}"
        " --output {output} > {log} 2>&1"


rule paint_masks:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        masks=of_stage("masks", "{split}/masks/{shard}.parquet"),
        assignments=assignments,
    output:
        "results/{run}/seed-{seed}/{split}/initial_label_maps/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/{split}/initial_label_maps/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{split}/initial_label_maps/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        settings=settings("clustering.clusters", "curation.classes"),
        code=RUN.code("paint_masks"),
    message:
        "Paint masks of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.paint_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --images {input.images} --masks {input.masks} --assignments {input.assignments}"
        " --output {output} > {log} 2>&1"


rule write_pseudo_labels:
    input:
        images=all_shards("images", "train/images"),
        masks=all_shards("masks", "train/masks"),
        assignments="results/{run}/seed-{seed}/clusters/assignments.parquet",
    output:
        "results/{run}/seed-{seed}/pseudo_labels.json",
    log:
        "logs/{run}/seed-{seed}/pseudo_labels.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/pseudo_labels.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(8000),
        runtime=attempts(60),
    params:
        settings=settings("clustering.clusters", "curation.classes"),
        code=RUN.code("write_pseudo_labels"),
    message:
        "Write pseudo-labels of {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.write_pseudo_labels --settings {params.settings:q}"
        " --code {params.code}"
        " --images {ALL:{input.images}u}"
        " --max-rejected {MAX_REJECTED:{wildcards.run}u} --masks {ALL:{input.masks}u}"
        " --assignments {input.assignments} {EXPECTED_ASSIGNMENTS:{input.assignments}u}"
        " --output {output} > {log} 2>&1"


rule draw_contact_sheets:
    input:
        images=all_shards("images", "train/images"),
        masks=all_shards("masks", "train/masks"),
        embeddings=all_shards("masks", "train/mask_embeddings"),
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
        settings=settings("clustering.metric", "clustering.standardize", "report.crops"),
        code=RUN.code("draw_contact_sheets"),
    message:
        "Draw contact sheets of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.draw_contact_sheets --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}u}"
        " --images {ALL:{input.images}u}"
        " --masks {ALL:{input.masks}u}"
        " --embeddings"
        " {ALL:{input.embeddings}u}"
        " --assignments {input.assignments} --centroids {input.centroids} --seed {wildcards.seed}"
        " --output {output} > {log} 2>&1"


rule contact_sheets:
    input:
        [
            f"results/{dataset}/seed-{seed}/contact_sheets"
            for dataset in config["datasets"]
            for seed in RUN.seeds(dataset)
        ],


rule compare_cluster_counts:
    input:
        images=all_shards("images", "train/images"),
        masks=all_shards("masks", "train/masks"),
        embeddings=all_shards("masks", "train/mask_embeddings"),
    output:
        directory("results/{dataset}/suggested_clusters"),
    log:
        "logs/{dataset}/suggested_clusters.log",
    benchmark:
        "benchmarks/{dataset}/suggested_clusters.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(30),
    params:
        settings=settings(
            "clustering.metric",
            "clustering.standardize",
            "clustering.suggestions",
            "report.crops",
            "seeds",
        ),
        code=RUN.code("compare_cluster_counts"),
    message:
        "Compare numbers of clusters of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.compare_cluster_counts --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --root {ROOT:{wildcards.dataset}u}"
        " --images {ALL:{input.images}u} --masks {ALL:{input.masks}u}"
        " --embeddings {ALL:{input.embeddings}u}"
        " --output {output} > {log} 2>&1"


rule suggest_clusters:
    input:
        expand("results/{dataset}/suggested_clusters", dataset=config["datasets"]),
