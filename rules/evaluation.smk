# Scores against the ground truth. No stage before this one reads labels.


def confident_step(dataset):
    """Name of the step "confident candidates", which says where the candidates come from."""
    return "mask_rcnn" if RUN.has_mask_rcnn(dataset) else "confident_masks"


def steps_of(run, seed):
    """The steps that are scored, as name → folder of label maps of the evaluated split."""
    dataset, variant, _ = parts_of(run)
    split = RUN.evaluated_split(dataset)
    base = f"results/{run}/seed-{seed}"
    if variant:
        return variant_steps(run, f"{base}/{split}")
    steps = {
        "initial_masks": f"{base}/{split}/initial_label_maps",
        confident_step(dataset): f"{base}/{split}/label_maps",
    }
    for number in RUN.rounds(dataset):
        name = step_in_round("segmentation", number)
        folder = f"{base}/round-{number}/{split}"
        steps[name] = f"{folder}/predictions"
        if RUN.has_crf(dataset):
            steps[f"{name}_crf"] = f"{folder}/predictions_crf"
    return steps


def step_options(dataset, folders):
    """`--step NAME SHARD…` for every step of `folders` (name → folder of label maps), in order."""
    split = RUN.evaluated_split(dataset)
    return [
        (f"--step {name}", shards_of(dataset, split, folder)) for name, folder in folders.items()
    ]


def evaluated_steps(wildcards):
    """The options of all steps of a run that are evaluated."""
    return step_options(dataset_of(wildcards), steps_of(wildcards.run, wildcards.seed))


def labels_of(split_of, *, objects=False):
    """A parameter of rules that read labels: a function from wildcards to the labels' digest."""

    def digest(wildcards):
        dataset = dataset_of(wildcards)
        return RUN.labels_digest(dataset, split_of(dataset), objects=objects)

    return digest


rule evaluate:
    input:
        images=all_shards("images", "{split}/images", RUN.evaluated_split),
        steps=lambda wildcards: files_of(evaluated_steps(wildcards)),
    output:
        metrics="results/{run}/seed-{seed}/metrics.json",
        csv=report(
            "results/{run}/seed-{seed}/per_class.csv",
            caption="captions/per_class.rst",
            category="Scores",
            labels={"dataset": "{run}", "what": "by class", "seed": "{seed}"},
        ),
        parquet="results/{run}/seed-{seed}/per_class.parquet",
    log:
        "logs/{run}/seed-{seed}/metrics.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/metrics.tsv"
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
            "dataset.label_orientation",
            "dataset.splits.{evaluated}.annotations",
            "clustering.clusters",
        ),
        code=RUN.code("evaluate"),
        labels=labels_of(RUN.evaluated_split),
        steps=lambda wildcards: option_text(evaluated_steps(wildcards)),
    message:
        "Evaluate {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u} --split {EVALUATED_SPLIT:{wildcards.run}u}"
        " --labels {params.labels:q}"
        " --images {ALL:{input.images}u} --max-rejected {MAX_REJECTED:{wildcards.run}u}"
        " {params.steps} --workers {threads}"
        " --output {output.metrics} --per-class-csv {output.csv}"
        " --per-class-parquet {output.parquet} > {log} 2>&1"


rule evaluate_instances:
    input:
        images=all_shards("images", "{split}/images", RUN.instance_split),
        masks=all_shards("masks", "{split}/masks", RUN.instance_split),
        assignments=assignments,
        candidates=lambda wildcards: (
            all_shards("candidates", "seed-{seed}/{split}/candidates", RUN.instance_split)(
                wildcards
            )
            if RUN.has_candidates(wildcards.run)
            else []
        ),
        metrics="results/{run}/seed-{seed}/metrics.json",
    output:
        report(
            "results/{run}/seed-{seed}/instances.json",
            caption="captions/instances.rst",
            category="Scores",
            labels={"dataset": "{run}", "what": "objects", "seed": "{seed}"},
        ),
    log:
        "logs/{run}/seed-{seed}/instances.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/instances.tsv"
    wildcard_constraints:
        run=runs_with("evaluation", "objects", True),
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
            "dataset.label_orientation",
            "dataset.splits.{instances}.annotations",
            "curation.classes",
        ),
        code=RUN.code("evaluate_instances"),
        labels=labels_of(RUN.instance_split, objects=True),
    message:
        "Evaluate masks of {wildcards.run} against objects, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate_instances --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u} --split {INSTANCE_SPLIT:{wildcards.run}u}"
        " --labels {params.labels:q}"
        " --images {ALL:{input.images}u} --max-rejected {MAX_REJECTED:{wildcards.run}u}"
        " --masks {ALL:{input.masks}u}"
        " --assignments {input.assignments} --candidates {ALL:{input.candidates}u}"
        " --metrics {input.metrics} --workers {threads} --output {output} > {log} 2>&1"


def seeds_of(pattern):
    """An input function: the files of all seeds."""
    return lambda wildcards: expand(
        pattern, dataset=wildcards.dataset, seed=RUN.seeds(wildcards.dataset)
    )


rule summarize:
    input:
        metrics=seeds_of("results/{dataset}/seed-{seed}/metrics.json"),
        instances=lambda wildcards: (
            seeds_of("results/{dataset}/seed-{seed}/instances.json")(wildcards)
            if RUN.has_objects(wildcards.dataset)
            else []
        ),
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
