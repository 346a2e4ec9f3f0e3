# Exports: datasets in the formats of other tools, and the model for use without this workflow.

from workflow_scripts.maskdistill.settings.export_formats import EXPORT_FORMATS


rule export_dataset:
    input:
        images=result_shards("images"),
        confident=result_shards("confident"),
        predictions=result_shards("predictions"),
        pseudo_labels=lambda wildcards: (
            f"results/{wildcards.dataset}/seed-{RUN.first_seed(wildcards.dataset)}/pseudo_labels.json"
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
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.label_orientation",
            "dataset.splits.{evaluated}.annotations",
            "curation.names",
            "exports.polygons",
            "exports.polygon_tolerance",
        ),
        code=RUN.code("export_dataset"),
        labels=lambda wildcards: (
            labels_of(RUN.evaluated_split)(wildcards)
            if EXPORT_FORMATS[wildcards.format].ground_truth
            and RUN.has_ground_truth(wildcards.dataset)
            else ""
        ),
        options=result_options,
    message:
        "Export {wildcards.dataset} as {wildcards.format}"
    shell:
        "exec python -m workflow_scripts.export_dataset --settings {params.settings:q}"
        " --code {params.code}"
        " --format {wildcards.format} --root {ROOT:{wildcards.dataset}u}"
        " --dataset {wildcards.dataset} --split {EVALUATED_SPLIT:{wildcards.dataset}u}"
        " --labels={params.labels:q} {params.options}"
        " --pseudo-labels {input.pseudo_labels} --output {output} > {log} 2>&1"


def final_model(wildcards):
    """The segmentation model of the last round of the first seed."""
    dataset = wildcards.dataset
    base = f"results/{dataset}/seed-{RUN.first_seed(dataset)}"
    return f"{base}/round-{RUN.last_round(dataset)}/segmentation/model.pt"


rule export_model:
    input:
        model=final_model,
        images=all_shards("images", "train/images"),
        metrics=lambda wildcards: (
            f"results/{wildcards.dataset}/seed-{RUN.first_seed(wildcards.dataset)}/metrics.json"
            if RUN.has_ground_truth(wildcards.dataset)
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
        settings=settings(
            "curation.classes", "curation.names", "features.backbone", "exports.weights_licence"
        ),
        code=RUN.code("export_model"),
        metrics=lambda wildcards, input: f"--metrics {input.metrics}" if input.metrics else "",
        step=lambda wildcards: step_in_round("segmentation", RUN.last_round(wildcards.dataset)),
    message:
        "Export the segmentation model of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.export_model --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --model {input.model}"
        " --images {ALL:{input.images}u}"
        " {params.metrics} --step {params.step} --output {output} > {log} 2>&1"


rule exports:
    input:
        [
            f"results/{dataset}/exports/{name}"
            for dataset in config["datasets"]
            for name in [*CONFIGS[dataset]["exports"]["formats"], "model"]
        ],
