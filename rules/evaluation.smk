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
        name = "segmentation" if number == 0 else f"segmentation_round_{number}"
        folder = f"{base}/round-{number}/{split}"
        steps[name] = f"{folder}/predictions"
        if CONFIGS[dataset]["crf"]["enabled"]:
            steps[f"{name}_crf"] = f"{folder}/predictions_crf"
    return steps


def step_options(dataset, seed):
    """`--step NAME SHARD…` for every step, in their order."""
    return " ".join(
        f"--step {name} {folder}/{SHARDS[dataset]}.parquet"
        for name, folder in steps_of(dataset, seed).items()
    )


def step_shards(dataset, seed):
    """All label maps of all steps."""
    return [
        path
        for folder in steps_of(dataset, seed).values()
        for path in shards_of(dataset, f"{folder}/{{shard}}.parquet")
    ]


def evaluated_images(wildcards):
    """Manifests of the evaluated split."""
    split = evaluated_split(CONFIGS[wildcards.dataset])
    return shards_of(
        wildcards.dataset, f"results/{wildcards.dataset}/{split}/images/{{shard}}.parquet"
    )


EVALUATED = ByDataset({name: evaluated_split(settings) for name, settings in CONFIGS.items()})


rule evaluate:
    input:
        images=evaluated_images,
        steps=lambda wildcards: step_shards(wildcards.dataset, wildcards.seed),
    output:
        metrics="results/{dataset}/seed-{seed}/metrics.json",
        csv="results/{dataset}/seed-{seed}/per_class.csv",
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
        steps=lambda wildcards: step_options(wildcards.dataset, wildcards.seed),
    message:
        "Evaluate {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.evaluate --settings {params.settings:q}"
        " --root {ROOTS:{wildcards.dataset}} --split {EVALUATED:{wildcards.dataset}}"
        " --images results/{wildcards.dataset}/{EVALUATED:{wildcards.dataset}}/"
        "images/{SHARDS:{wildcards.dataset}}.parquet {params.steps} --workers {threads}"
        " --output {output.metrics} --per-class-csv {output.csv}"
        " --per-class-parquet {output.parquet} > {log} 2>&1"


rule summarize:
    input:
        lambda wildcards: expand(
            "results/{dataset}/seed-{seed}/metrics.json",
            dataset=wildcards.dataset,
            seed=CONFIGS[wildcards.dataset]["seeds"],
        ),
    output:
        "results/{dataset}/metrics.json",
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
        " --metrics {input} --output {output} > {log} 2>&1"
