# The result for other tools: datasets in their formats, and the model for use without this workflow.

from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS


def export_shards(wildcards, stage):
    """Shards of the evaluated split that an export is made of."""
    dataset = wildcards.dataset
    split, seed = evaluated_split(CONFIGS[dataset]), first_seed(dataset)
    base = f"results/{dataset}"
    folder = {
        "images": f"{base}/{split}/images",
        "confident": f"{base}/seed-{seed}/{split}/confident",
        "predictions": (
            f"{base}/seed-{seed}/round-{last_round(dataset)}/{split}/{final_predictions(dataset)}"
        ),
    }[stage]
    return f"{folder}/{{shard}}.parquet"


def exported(stage):
    """An input function: all shards of a stage."""
    return lambda wildcards: shards_of(
        wildcards.dataset,
        export_shards(wildcards, stage),
        evaluated_split(CONFIGS[wildcards.dataset]),
    )


def export_options(wildcards):
    """The shards on the command line, for the shell to expand."""
    shards = evaluated_shards(wildcards.dataset)
    return " ".join(
        f"--{stage} {export_shards(wildcards, stage)}".replace("{shard}", shards)
        for stage in ("images", "confident", "predictions")
    )


rule export_dataset:
    input:
        images=exported("images"),
        confident=exported("confident"),
        predictions=exported("predictions"),
        pseudo_labels=lambda wildcards: (
            f"results/{wildcards.dataset}/seed-{first_seed(wildcards.dataset)}/pseudo_labels.json"
        ),
    output:
        directory("results/{dataset}/exports/{format}"),
    log:
        "logs/{dataset}/exports/{format}.log",
    benchmark:
        "benchmarks/{dataset}/exports/{format}.tsv"
    wildcard_constraints:
        format="|".join(EXPORT_FORMATS),
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        settings=settings_of("export_dataset"),
        code=code_of("export_dataset"),
        labels=lambda wildcards: (
            labels_of(evaluated_split)(wildcards)
            if EXPORT_FORMATS[wildcards.format].ground_truth
            and has_ground_truth(wildcards.dataset)
            else ""
        ),
        options=export_options,
    message:
        "Export {wildcards.dataset} as {wildcards.format}"
    shell:
        "exec python -m workflow_scripts.export_dataset --settings {params.settings:q}"
        " --code {params.code}"
        " --format {wildcards.format} --root {ROOTS:{wildcards.dataset}}"
        " --dataset {wildcards.dataset} --split {EVALUATED:{wildcards.dataset}}"
        " --labels={params.labels:q} {params.options}"
        " --pseudo-labels {input.pseudo_labels} --output {output} > {log} 2>&1"


def final_model(wildcards):
    """The segmentation model of the last round of the first seed."""
    dataset = wildcards.dataset
    base = f"results/{dataset}/seed-{first_seed(dataset)}"
    return f"{base}/round-{last_round(dataset)}/segmentation/model.pt"


rule export_model:
    input:
        model=final_model,
        images=all_shards("results/{dataset}/train/images/{shard}.parquet"),
        metrics=lambda wildcards: (
            f"results/{wildcards.dataset}/seed-{first_seed(wildcards.dataset)}/metrics.json"
            if has_ground_truth(wildcards.dataset)
            else []
        ),
    output:
        directory("results/{dataset}/exports/model"),
    log:
        "logs/{dataset}/exports/model.log",
    benchmark:
        "benchmarks/{dataset}/exports/model.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(8000),
        runtime=attempts(60),
    params:
        settings=settings_of("export_model"),
        code=code_of("export_model"),
        metrics=lambda wildcards, input: f"--metrics {input.metrics}" if input.metrics else "",
        step=lambda wildcards: step_in_round("segmentation", last_round(wildcards.dataset)),
    message:
        "Export the segmentation model of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.export_model --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --model {input.model}"
        " --images results/{wildcards.dataset}/train/images/{SHARDS:{wildcards.dataset}}.parquet"
        " {params.metrics} --step {params.step} --output {output} > {log} 2>&1"


rule exports:
    input:
        [
            f"results/{dataset}/exports/{name}"
            for dataset in config["datasets"]
            for name in [*CONFIGS[dataset]["exports"]["formats"], "model"]
        ],
