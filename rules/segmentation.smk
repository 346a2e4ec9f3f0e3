# DeepLab-v3 trained on label maps, its predictions, and their refinement by a CRF.


# The main run of a dataset may train in several rounds, each in a folder round-N. A variant trains
# only once and has no such folder.
wildcard_constraints:
    in_round=r"(round-\d+/)?",


def training_label_maps(wildcards):
    """Folder of the label maps that a model is trained on.

    In round 0 these are the confident candidates, in later rounds the refined predictions of the
    round before.
    """
    number = wildcards.in_round.removeprefix("round-").removesuffix("/")
    if number in ("", "0"):
        return f"{RUN.folder(wildcards.run, 'confident')}/seed-{wildcards.seed}/train/label_maps"
    last = int(number) - 1
    return f"results/{wildcards.run}/seed-{wildcards.seed}/round-{last}/train/predictions_crf"


def stored_tokens(wildcards):
    """The shard's features, if the run's model predicts from the tokens that they hold."""
    found = of_stage("images", "{split}/features/{shard}.parquet")(wildcards)
    return found if RUN.has_vit_head(dataset_of(wildcards)) else []


def tokens_option(wildcards, input):
    """The option that names these features."""
    return f"--features {input.features}" if input.get("features") else ""


rule train_segmentation:
    input:
        label_maps=lambda wildcards: shards_of(
            dataset_of(wildcards), "train", training_label_maps(wildcards)
        ),
        weights=weights_of("segmentation"),
    output:
        model="results/{run}/seed-{seed}/{in_round}segmentation/model.pt",
        history="results/{run}/seed-{seed}/{in_round}segmentation/history.csv",
    log:
        "logs/{run}/seed-{seed}/{in_round}segmentation/model.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{in_round}segmentation/model.tsv"
    wildcard_constraints:
        run=runs_with("segmentation", "model", "deeplab"),
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"] * TRAINING_PROCESSES
    resources:
        gpu=TRAINING_GPUS,
        mem_mb=attempts(16000 * TRAINING_PROCESSES),
        runtime=attempts(1440),
    params:
        settings=settings(
            "segmentation",
            "clustering.clusters",
            without=("segmentation.model",),
        ),
        code=RUN.code("train_segmentation"),
        weights=weights_digest("segmentation"),
        label_maps=training_label_maps,
    message:
        "Train DeepLab-v3 of {wildcards.run}: {output.model}"
    shell:
        "exec {TRAIN:{resources.gpu}u} workflow_scripts.train_segmentation --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u}"
        " --label-maps {ALL:{input.label_maps}u}"
        " --work-dir checkpoints/{DATASET:{wildcards.run}u}/seed-{wildcards.seed}/segmentation"
        " --seed {wildcards.seed} {DEVICE} --workers {threads}"
        " --model {output.model} --history {output.history} > {log} 2>&1"


rule train_vit_head:
    input:
        label_maps=lambda wildcards: shards_of(
            dataset_of(wildcards), "train", training_label_maps(wildcards)
        ),
        features=all_shards("images", "{split}/features"),
        weights=weights_of("features"),
    output:
        model="results/{run}/seed-{seed}/{in_round}segmentation/model.pt",
        history="results/{run}/seed-{seed}/{in_round}segmentation/history.csv",
    log:
        "logs/{run}/seed-{seed}/{in_round}segmentation/model.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{in_round}segmentation/vit_head.tsv"
    wildcard_constraints:
        run=runs_with("segmentation", "model", "vit_head"),
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(480),
    params:
        settings=settings(
            "features.backbone",
            "features.backbone_options",
            "features.weights",
            "features.shorter_side",
            "features.longer_side",
            "segmentation.crop_size",
            "segmentation.dropout",
            "segmentation.epochs",
            "segmentation.batch_size",
            "segmentation.optimizer",
            "segmentation.learning_rate",
            "segmentation.learning_rate_milestones",
            "segmentation.learning_rate_decay",
            "segmentation.momentum",
            "segmentation.weight_decay",
            "segmentation.hardest_fraction",
            "segmentation.label_smoothing",
            "segmentation.flip",
            "clustering.clusters",
        ),
        code=RUN.code("train_vit_head"),
        weights=weights_digest("features"),
        label_maps=training_label_maps,
    message:
        "Train a decoder on the transformer of {wildcards.run}: {output.model}"
    shell:
        "exec python -m workflow_scripts.train_vit_head --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u}"
        " --label-maps {ALL:{input.label_maps}u} --features {ALL:{input.features}u}"
        " --work-dir checkpoints/{DATASET:{wildcards.run}u}/seed-{wildcards.seed}/segmentation"
        " --seed {wildcards.seed} {DEVICE} --workers {threads}"
        " --model {output.model} --history {output.history} > {log} 2>&1"


rule predict_segmentation:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        features=stored_tokens,
        model="results/{run}/seed-{seed}/{in_round}segmentation/model.pt",
    output:
        "results/{run}/seed-{seed}/{in_round}{split}/predictions/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/{in_round}{split}/predictions/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{in_round}{split}/predictions/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(240),
    params:
        settings=settings("predictions"),
        code=RUN.code("predict_segmentation"),
        tokens=tokens_option,
    message:
        "Predict label maps of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.predict_segmentation --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}/{wildcards.split}u} --images {input.images}"
        " --model {input.model} {params.tokens}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"


rule refine_predictions:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        features=stored_tokens,
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
            "predictions",
            "crf.longer_side",
            "crf.iterations",
            "crf.gaussian_weight",
            "crf.gaussian_sigma",
            "crf.bilateral_weight",
            "crf.bilateral_sigma_xy",
            "crf.bilateral_sigma_rgb",
            "crf.min_probability",
        ),
        code=RUN.code("refine_predictions"),
        tokens=tokens_option,
    message:
        "Refine predictions of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.refine_predictions --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}/{wildcards.split}u} --images {input.images}"
        " --model {input.model} {params.tokens}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"
