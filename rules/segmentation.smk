# DeepLab-v3 trained on label maps, its predictions, and their refinement by a CRF.


def training_label_maps(wildcards):
    """Folder of what a round is trained on: confident candidates, later refined predictions."""
    base = f"results/{wildcards.dataset}/seed-{wildcards.seed}"
    if wildcards.round == "0":
        return f"{base}/train/label_maps"
    return f"{base}/round-{int(wildcards.round) - 1}/train/predictions_crf"


rule train_segmentation:
    input:
        label_maps=lambda wildcards: shards_of(
            wildcards.dataset, "train", training_label_maps(wildcards)
        ),
        weights=weights_of("segmentation"),
    output:
        model="results/{dataset}/seed-{seed}/round-{round}/segmentation/model.pt",
        history="results/{dataset}/seed-{seed}/round-{round}/segmentation/history.csv",
    log:
        "logs/{dataset}/seed-{seed}/round-{round}/segmentation/model.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/round-{round}/segmentation/model.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"] * TRAINING_PROCESSES
    resources:
        gpu=TRAINING_GPUS,
        mem_mb=attempts(16000 * TRAINING_PROCESSES),
        runtime=attempts(1440),
    params:
        settings=settings("segmentation", "clustering.clusters"),
        code=RUN.code("train_segmentation"),
        label_maps=training_label_maps,
    message:
        "Train DeepLab-v3 on {wildcards.dataset}, seed {wildcards.seed}, round {wildcards.round}"
    shell:
        "exec {TRAIN:{resources.gpu}} workflow_scripts.train_segmentation --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}}"
        " --label-maps {ALL:{input.label_maps}}"
        " --work-dir checkpoints/{wildcards.dataset}/seed-{wildcards.seed}/segmentation"
        " --seed {wildcards.seed} {DEVICE} --workers {threads}"
        " --model {output.model} --history {output.history} > {log} 2>&1"


rule predict_segmentation:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        model="results/{dataset}/seed-{seed}/round-{round}/segmentation/model.pt",
    output:
        "results/{dataset}/seed-{seed}/round-{round}/{split}/predictions/{shard}.parquet",
    log:
        "logs/{dataset}/seed-{seed}/round-{round}/{split}/predictions/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/round-{round}/{split}/predictions/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(240),
    params:
        settings=settings("predictions.precision"),
        code=RUN.code("predict_segmentation"),
    message:
        "Predict label maps of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.predict_segmentation --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}/{wildcards.split}} --images {input.images}"
        " --model {input.model}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"


rule refine_predictions:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        model="results/{dataset}/seed-{seed}/round-{round}/segmentation/model.pt",
    output:
        "results/{dataset}/seed-{seed}/round-{round}/{split}/predictions_crf/{shard}.parquet",
    log:
        "logs/{dataset}/seed-{seed}/round-{round}/{split}/predictions_crf/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/round-{round}/{split}/predictions_crf/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(480),
    params:
        settings=settings(
            "predictions.precision",
            "crf.iterations",
            "crf.gaussian_weight",
            "crf.gaussian_sigma",
            "crf.bilateral_weight",
            "crf.bilateral_sigma_xy",
            "crf.bilateral_sigma_rgb",
            "crf.min_probability",
        ),
        code=RUN.code("refine_predictions"),
    message:
        "Refine predictions of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.refine_predictions --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}/{wildcards.split}} --images {input.images}"
        " --model {input.model}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"
