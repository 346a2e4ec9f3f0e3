# Scores against the ground truth, the only stage that reads labels.


def steps_of(dataset, seed):
    """The steps that are scored: name → folder of label maps of the evaluated split."""
    split = evaluated_split(CONFIGS[dataset])
    base = f"results/{dataset}/seed-{seed}"
    steps = {
        "initial_masks": f"{base}/{split}/initial_label_maps",
        "mask_rcnn": f"{base}/{split}/label_maps",
    }
    for number in range(last_round(dataset) + 1):
        name = step_in_round("segmentation", number)
        folder = f"{base}/round-{number}/{split}"
        steps[name] = f"{folder}/predictions"
        if CONFIGS[dataset]["crf"]["enabled"]:
            steps[f"{name}_crf"] = f"{folder}/predictions_crf"
    return steps


def evaluated_shards(dataset):
    """All shards of the evaluated split, for the shell to expand."""
    return SHARDS[f"{dataset}/{evaluated_split(CONFIGS[dataset])}"]


def options_of_steps(dataset, folders):
    """`--step NAME SHARD…` for every step, in their order."""
    return " ".join(
        f"--step {name} {folder}/{evaluated_shards(dataset)}.parquet"
        for name, folder in folders.items()
    )


def step_shards(dataset, folders):
    """All label maps of steps: name → folder."""
    split = evaluated_split(CONFIGS[dataset])
    return [
        path
        for folder in folders.values()
        for path in shards_of(dataset, f"{folder}/{{shard}}.parquet", split)
    ]


def evaluated(pattern, split_of=evaluated_split):
    """An input function: all shards of the evaluated split, which is filled in."""

    def paths(wildcards):
        split = split_of(CONFIGS[wildcards.dataset])
        return shards_of(wildcards.dataset, pattern.replace("{split}", split), split)

    return paths


def with_objects(pattern):
    """As `evaluated`, of the split whose objects are evaluated."""
    return evaluated(pattern, instance_split)


EVALUATED = ByDataset({name: evaluated_split(settings) for name, settings in CONFIGS.items()})
WITH_OBJECTS = ByDataset({name: instance_split(settings) for name, settings in CONFIGS.items()})


def labels_digest(dataset, split, *, objects=False, shard=None):
    """Digest of the labels of a split or of one shard: what reads them is stale when one changes."""
    if origin := made_by_rule(dataset, split):
        return origin
    described = CONFIGS[dataset]["dataset"]

    def digest():
        images = listing(dataset, split)
        if shard is not None:
            images = images_by_shard(dataset, split).get(int(shard), [])
        root = Path(described["root"])
        return datasets.labels_digest(described, root, split, images, objects=objects)

    what = "objects" if objects else "labels"
    return RUN.once(f"{what} of {dataset}, {split}, shard {shard}", digest)


def labels_of(split_of, *, objects=False):
    """A parameter of rules that read labels of a split: a function of the wildcards."""

    def labels(wildcards):
        split = split_of(CONFIGS[wildcards.dataset])
        return labels_digest(wildcards.dataset, split, objects=objects)

    return labels


rule evaluate:
    input:
        images=evaluated("results/{dataset}/{split}/images/{shard}.parquet"),
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
        settings=settings_of("evaluate"),
        code=code_of("evaluate"),
        labels=labels_of(evaluated_split),
        steps=lambda wildcards: options_of_steps(
            wildcards.dataset, steps_of(wildcards.dataset, wildcards.seed)
        ),
    message:
        "Evaluate {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOTS:{wildcards.dataset}} --split {EVALUATED:{wildcards.dataset}}"
        " --labels {params.labels:q}"
        " --images {ALL:{input.images}} --max-rejected {TOLERATED:{wildcards.dataset}}"
        " {params.steps} --workers {threads}"
        " --output {output.metrics} --per-class-csv {output.csv}"
        " --per-class-parquet {output.parquet} > {log} 2>&1"


def assignments_with_objects(wildcards):
    """Clusters of the masks of the split whose objects are evaluated."""
    if instance_split(CONFIGS[wildcards.dataset]) == "train":
        return f"results/{wildcards.dataset}/seed-{wildcards.seed}/clusters/assignments.parquet"
    pattern = "results/{dataset}/seed-{seed}/{split}/assignments/{shard}.parquet"
    return with_objects(pattern)(wildcards)


rule evaluate_instances:
    input:
        images=with_objects("results/{dataset}/{split}/images/{shard}.parquet"),
        masks=with_objects("results/{dataset}/{split}/masks/{shard}.parquet"),
        assignments=assignments_with_objects,
        candidates=with_objects("results/{dataset}/seed-{seed}/{split}/candidates/{shard}.parquet"),
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
        settings=settings_of("evaluate_instances"),
        code=code_of("evaluate_instances"),
        labels=labels_of(instance_split, objects=True),
    message:
        "Evaluate masks of {wildcards.dataset} against objects, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate_instances --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOTS:{wildcards.dataset}} --split {WITH_OBJECTS:{wildcards.dataset}}"
        " --labels {params.labels:q}"
        " --images {ALL:{input.images}} --max-rejected {TOLERATED:{wildcards.dataset}}"
        " --masks {ALL:{input.masks}}"
        " --assignments {input.assignments} --candidates {ALL:{input.candidates}}"
        " --metrics {input.metrics} --workers {threads} --output {output} > {log} 2>&1"


def seeds_of(pattern):
    """An input function: the files of all seeds."""
    return lambda wildcards: expand(
        pattern, dataset=wildcards.dataset, seed=CONFIGS[wildcards.dataset]["seeds"]
    )


rule summarize:
    input:
        metrics=seeds_of("results/{dataset}/seed-{seed}/metrics.json"),
        instances=seeds_of("results/{dataset}/seed-{seed}/instances.json"),
        linear_probes=lambda wildcards: (
            seeds_of("results/{dataset}/seed-{seed}/linear_probe.json")(wildcards)
            if has_linear_probe(wildcards.dataset)
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
        settings=settings_of("summarize"),
        code=code_of("summarize"),
    message:
        "Summarize {wildcards.dataset} over its seeds"
    shell:
        "exec python -m workflow_scripts.summarize --settings {params.settings:q}"
        " --code {params.code}"
        " --metrics {input.metrics} --instances {input.instances}"
        " --linear-probes {input.linear_probes} --output {output} > {log} 2>&1"
