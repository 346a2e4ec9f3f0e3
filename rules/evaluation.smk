# Scores against the ground truth, the only stage that reads labels.


def steps_of(dataset, seed):
    """The steps that are scored: name → folder of label maps of the evaluated split."""
    split = RUN.evaluated_split(dataset)
    base = f"results/{dataset}/seed-{seed}"
    steps = {
        "initial_masks": f"{base}/{split}/initial_label_maps",
        "mask_rcnn": f"{base}/{split}/label_maps",
    }
    for number in RUN.rounds(dataset):
        name = step_in_round("segmentation", number)
        folder = f"{base}/round-{number}/{split}"
        steps[name] = f"{folder}/predictions"
        if RUN.has_crf(dataset):
            steps[f"{name}_crf"] = f"{folder}/predictions_crf"
    return steps


def options_of_steps(dataset, folders):
    """`--step NAME SHARD…` for every step, in their order."""
    split = RUN.evaluated_split(dataset)
    return " ".join(
        f"--step {name} {in_shell(shards_of(dataset, split, folder))}"
        for name, folder in folders.items()
    )


def step_shards(dataset, folders):
    """All label maps of steps: name → folder."""
    split = RUN.evaluated_split(dataset)
    return [path for folder in folders.values() for path in shards_of(dataset, split, folder)]


def labels_of(split_of, *, objects=False):
    """A parameter of rules that read labels of a split: a function of the wildcards."""

    return lambda wildcards: RUN.labels_digest(
        wildcards.dataset, split_of(wildcards.dataset), objects=objects
    )


rule evaluate:
    input:
        images=all_shards("results/{dataset}/{split}/images", RUN.evaluated_split),
        steps=lambda wildcards: step_shards(
            wildcards.dataset, steps_of(wildcards.dataset, wildcards.seed)
        ),
    output:
        metrics="results/{dataset}/seed-{seed}/metrics.json",
        csv=report(
            "results/{dataset}/seed-{seed}/per_class.csv",
            caption="captions/per_class.rst",
            category="Scores",
            labels={"dataset": "{dataset}", "what": "by class", "seed": "{seed}"},
        ),
        parquet="results/{dataset}/seed-{seed}/per_class.parquet",
    log:
        "logs/{dataset}/seed-{seed}/metrics.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/metrics.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 2
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.splits.{evaluated}.annotations",
            "clustering.clusters",
        ),
        code=RUN.code("evaluate"),
        labels=labels_of(RUN.evaluated_split),
        steps=lambda wildcards: options_of_steps(
            wildcards.dataset, steps_of(wildcards.dataset, wildcards.seed)
        ),
    message:
        "Evaluate {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}} --split {EVALUATED_SPLIT:{wildcards.dataset}}"
        " --labels {params.labels:q}"
        " --images {ALL:{input.images}} --max-rejected {MAX_REJECTED:{wildcards.dataset}}"
        " {params.steps} --workers {threads}"
        " --output {output.metrics} --per-class-csv {output.csv}"
        " --per-class-parquet {output.parquet} > {log} 2>&1"


def assignments_with_objects(wildcards):
    """Clusters of the masks of the split whose objects are evaluated."""
    if RUN.instance_split(wildcards.dataset) == "train":
        return f"results/{wildcards.dataset}/seed-{wildcards.seed}/clusters/assignments.parquet"
    folder = "results/{dataset}/seed-{seed}/{split}/assignments"
    return all_shards(folder, RUN.instance_split)(wildcards)


rule evaluate_instances:
    input:
        images=all_shards("results/{dataset}/{split}/images", RUN.instance_split),
        masks=all_shards("results/{dataset}/{split}/masks", RUN.instance_split),
        assignments=assignments_with_objects,
        candidates=all_shards(
            "results/{dataset}/seed-{seed}/{split}/candidates", RUN.instance_split
        ),
        metrics="results/{dataset}/seed-{seed}/metrics.json",
    output:
        report(
            "results/{dataset}/seed-{seed}/instances.json",
            caption="captions/instances.rst",
            category="Scores",
            labels={"dataset": "{dataset}", "what": "objects", "seed": "{seed}"},
        ),
    log:
        "logs/{dataset}/seed-{seed}/instances.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/instances.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 2
    resources:
        mem_mb=attempts(16000),
        runtime=attempts(240),
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.splits.{instances}.annotations",
            "curation.classes",
        ),
        code=RUN.code("evaluate_instances"),
        labels=labels_of(RUN.instance_split, objects=True),
    message:
        "Evaluate masks of {wildcards.dataset} against objects, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate_instances --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}} --split {INSTANCE_SPLIT:{wildcards.dataset}}"
        " --labels {params.labels:q}"
        " --images {ALL:{input.images}} --max-rejected {MAX_REJECTED:{wildcards.dataset}}"
        " --masks {ALL:{input.masks}}"
        " --assignments {input.assignments} --candidates {ALL:{input.candidates}}"
        " --metrics {input.metrics} --workers {threads} --output {output} > {log} 2>&1"


def seeds_of(pattern):
    """An input function: the files of all seeds."""
    return lambda wildcards: expand(
        pattern, dataset=wildcards.dataset, seed=RUN.seeds(wildcards.dataset)
    )


rule summarize:
    input:
        metrics=seeds_of("results/{dataset}/seed-{seed}/metrics.json"),
        instances=seeds_of("results/{dataset}/seed-{seed}/instances.json"),
        linear_probes=lambda wildcards: (
            seeds_of("results/{dataset}/seed-{seed}/linear_probe.json")(wildcards)
            if RUN.has_linear_probe(wildcards.dataset)
            else []
        ),
    output:
        report(
            "results/{dataset}/metrics.json",
            caption="captions/summary.rst",
            category="Scores",
            labels={"dataset": "{dataset}", "what": "summary", "seed": "all"},
        ),
    log:
        "logs/{dataset}/metrics.log",
    benchmark:
        "benchmarks/{dataset}/metrics.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        settings=settings(),
        code=RUN.code("summarize"),
    message:
        "Summarize {wildcards.dataset} over its seeds"
    shell:
        "exec python -m workflow_scripts.summarize --settings {params.settings:q}"
        " --code {params.code}"
        " --metrics {input.metrics} --instances {input.instances}"
        " --linear-probes {input.linear_probes} --output {output} > {log} 2>&1"
