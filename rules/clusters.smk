# Pseudo-classes from the embeddings of the masks.


def support_shards(stage):
    """An input function: shards of the training images of the datasets that support the clustering."""
    return lambda wildcards: [
        path
        for name in CONFIGS[wildcards.dataset]["clustering"]["support"]
        for path in shards_of(name, "train", f"results/{name}/train/{stage}")
    ]


def support_options(dataset):
    """The same on the command line."""
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
    """The option that stops a job whose clusters are not those that people have named."""
    found = re.fullmatch(r"results/([^/]+)/seed-(\d+)/clusters/assignments\.parquet", path)
    digest = RUN.expected_assignments(found[1], int(found[2])) if found else None
    return f"--expected-assignments {digest}" if digest else ""


SUPPORT = AtStart(support_options)
EXPECTED_ASSIGNMENTS = AtStart(expected_assignments)


def assignments(wildcards):
    """Clusters of the masks of a split: those of `train` were clustered, others are assigned."""
    base = f"results/{wildcards.dataset}/seed-{wildcards.seed}"
    if wildcards.split == "train":
        return f"{base}/clusters/assignments.parquet"
    return f"{base}/{wildcards.split}/assignments/{wildcards.shard}.parquet"


rule cluster_masks:
    input:
        embeddings=all_shards("results/{dataset}/train/mask_embeddings"),
        support=support_shards("mask_embeddings"),
        support_images=support_shards("images"),
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
        settings=settings("clustering.metric", "clustering.standardize"),
        code=RUN.code("assign_masks"),
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
        settings=settings("clustering.clusters", "curation.classes"),
        code=RUN.code("paint_masks"),
    message:
        "Paint masks of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.paint_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --images {input.images} --masks {input.masks} --assignments {input.assignments}"
        " --output {output} > {log} 2>&1"


rule write_pseudo_labels:
    input:
        images=all_shards("results/{dataset}/train/images"),
        masks=all_shards("results/{dataset}/train/masks"),
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
        settings=settings("clustering.clusters", "curation.classes"),
        code=RUN.code("write_pseudo_labels"),
    message:
        "Write pseudo-labels of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.write_pseudo_labels --settings {params.settings:q}"
        " --code {params.code}"
        " --images {ALL:{input.images}}"
        " --max-rejected {MAX_REJECTED:{wildcards.dataset}} --masks {ALL:{input.masks}}"
        " --assignments {input.assignments} {EXPECTED_ASSIGNMENTS:{input.assignments}}"
        " --output {output} > {log} 2>&1"


rule draw_contact_sheets:
    input:
        images=all_shards("results/{dataset}/train/images"),
        masks=all_shards("results/{dataset}/train/masks"),
        embeddings=all_shards("results/{dataset}/train/mask_embeddings"),
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
        " --root {ROOT:{wildcards.dataset}}"
        " --images {ALL:{input.images}}"
        " --masks {ALL:{input.masks}}"
        " --embeddings"
        " {ALL:{input.embeddings}}"
        " --assignments {input.assignments} --centroids {input.centroids} --seed {wildcards.seed}"
        " --output {output} > {log} 2>&1"


rule contact_sheets:
    input:
        [
            f"results/{dataset}/seed-{seed}/contact_sheets"
            for dataset in config["datasets"]
            for seed in RUN.seeds(dataset)
        ],
