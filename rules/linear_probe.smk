# Linear probe: a linear classifier that is trained with labels on frozen features.


rule write_ground_truth:
    input:
        "results/{dataset}/{split}/images/{shard}.parquet",
    output:
        "results/{dataset}/{split}/ground_truth/{shard}.parquet",
    log:
        "logs/{dataset}/{split}/ground_truth/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/{split}/ground_truth/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.label_orientation",
            "dataset.splits.train.annotations",
        ),
        code=RUN.code("write_ground_truth"),
        labels=lambda wildcards: RUN.labels_digest(
            wildcards.dataset, wildcards.split, shard=int(wildcards.shard)
        ),
    message:
        "Write ground truth of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.write_ground_truth --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}u} --split {wildcards.split}"
        " --labels {params.labels:q} --images {input}"
        " --output {output} > {log} 2>&1"


rule train_linear_probe:
    input:
        ground_truth=all_shards("images", "train/ground_truth"),
        model="results/{dataset}/seed-{seed}/round-{round}/segmentation/model.pt",
    output:
        model="results/{dataset}/seed-{seed}/round-{round}/linear_probe/model.pt",
        history="results/{dataset}/seed-{seed}/round-{round}/linear_probe/history.csv",
    log:
        "logs/{dataset}/seed-{seed}/round-{round}/linear_probe/model.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/round-{round}/linear_probe/model.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(16000),
        runtime=attempts(1440),
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.label_orientation",
            "dataset.splits.train.annotations",
            "segmentation.longer_side",
            "segmentation.crop_size",
            "segmentation.scale",
            "segmentation.rotation",
            "segmentation.flip",
            "predictions.precision",
            "evaluation.linear_probe.epochs",
            "evaluation.linear_probe.batch_size",
            "evaluation.linear_probe.learning_rate",
            "evaluation.linear_probe.learning_rate_milestones",
            "evaluation.linear_probe.learning_rate_decay",
            "evaluation.linear_probe.momentum",
            "evaluation.linear_probe.weight_decay",
        ),
        code=RUN.code("train_linear_probe"),
    message:
        "Train a linear probe on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.train_linear_probe --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}u} --split train"
        " --ground-truth {ALL:{input.ground_truth}u}"
        " --segmentation-model {input.model}"
        " --work-dir checkpoints/{wildcards.dataset}/seed-{wildcards.seed}/linear_probe"
        " --seed {wildcards.seed} {DEVICE} --workers {threads}"
        " --model {output.model} --history {output.history} > {log} 2>&1"


# The model file of a probe has the format of a DeepLab model file; its outputs are classes instead
# of clusters.
use rule predict_segmentation as predict_linear_probe with:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        model="results/{run}/seed-{seed}/round-{round}/linear_probe/model.pt",
    output:
        "results/{run}/seed-{seed}/round-{round}/{split}/linear_probe/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/round-{round}/{split}/linear_probe/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/round-{round}/{split}/linear_probe/{shard}.tsv"
    message:
        "Predict by linear probe on {wildcards.run} {wildcards.split}, shard {wildcards.shard}"


use rule refine_predictions as refine_linear_probe with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        model="results/{dataset}/seed-{seed}/round-{round}/linear_probe/model.pt",
    output:
        "results/{dataset}/seed-{seed}/round-{round}/{split}/linear_probe_crf/{shard}.parquet",
    log:
        "logs/{dataset}/seed-{seed}/round-{round}/{split}/linear_probe_crf/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/round-{round}/{split}/linear_probe_crf/{shard}.tsv"
    message:
        "Refine the linear probe on {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"


def linear_probe_steps(wildcards):
    """The options of a probe's label maps, of every round."""
    dataset = dataset_of(wildcards)
    split = RUN.evaluated_split(dataset)
    steps = {}
    for number in RUN.rounds(dataset):
        name = step_in_round("linear_probe", number)
        folder = f"results/{wildcards.run}/seed-{wildcards.seed}/round-{number}/{split}"
        steps[name] = f"{folder}/linear_probe"
        if RUN.has_crf(dataset):
            steps[f"{name}_crf"] = f"{folder}/linear_probe_crf"
    return step_options(dataset, steps)


use rule evaluate as evaluate_linear_probe with:
    input:
        images=all_shards("images", "{split}/images", RUN.evaluated_split),
        steps=lambda wildcards: files_of(linear_probe_steps(wildcards)),
    output:
        metrics="results/{run}/seed-{seed}/linear_probe.json",
        csv=report(
            "results/{run}/seed-{seed}/linear_probe_per_class.csv",
            caption="captions/per_class.rst",
            category="Scores",
            labels={"dataset": "{run}", "what": "linear probe by class", "seed": "{seed}"},
        ),
        parquet="results/{run}/seed-{seed}/linear_probe_per_class.parquet",
    log:
        "logs/{run}/seed-{seed}/linear_probe.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/linear_probe.tsv"
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.label_orientation",
            "dataset.splits.{evaluated}.annotations",
        ),
        code=RUN.code("evaluate"),
        steps=lambda wildcards: f"--supervised {option_text(linear_probe_steps(wildcards))}",
    message:
        "Evaluate the linear probe of {wildcards.run}, seed {wildcards.seed}"
