# Mask R-CNN trained on the pseudo-labels, and the candidates that it predicts.


def engine_environment(wildcards):
    """The conda environment of the Mask R-CNN engine that the dataset's config names."""
    engine = CONFIGS[dataset_of(wildcards)]["mask_rcnn"]["engine"]
    return {
        "torchvision": "../envs/maskdistill.yaml",
        "detectron2": "../envs/detectron2.yaml",
    }[engine]


rule train_mask_rcnn:
    input:
        pseudo_labels="results/{run}/seed-{seed}/pseudo_labels.json",
        weights=weights_of("mask_rcnn"),
    output:
        model="results/{run}/seed-{seed}/mask_rcnn/model.pt",
        history="results/{run}/seed-{seed}/mask_rcnn/history.csv",
    log:
        "logs/{run}/seed-{seed}/mask_rcnn/model.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/mask_rcnn/model.tsv"
    conda:
        engine_environment
    threads: RUNTIME["threads"] * TRAINING_PROCESSES
    resources:
        gpu=TRAINING_GPUS,
        mem_mb=attempts(16000 * TRAINING_PROCESSES),
        runtime=attempts(1440),
    params:
        settings=settings("mask_rcnn", without=("mask_rcnn.enabled",)),
        code=RUN.code("train_mask_rcnn"),
        weights=weights_digest("mask_rcnn"),
    message:
        "Train Mask R-CNN on {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec {TRAIN:{resources.gpu}u} workflow_scripts.train_mask_rcnn --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}u} --pseudo-labels {input.pseudo_labels}"
        " --work-dir checkpoints/{DATASET:{wildcards.run}u}/seed-{wildcards.seed}/mask_rcnn"
        " --seed {wildcards.seed} {DEVICE} --workers {threads} {CHECKPOINTS}"
        " --model {output.model} --history {output.history} > {log} 2>&1"


rule predict_candidates:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        model="results/{run}/seed-{seed}/mask_rcnn/model.pt",
    output:
        "results/{run}/seed-{seed}/{split}/candidates/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/{split}/candidates/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{split}/candidates/{shard}.tsv"
    wildcard_constraints:
        run=runs_with("mask_rcnn", "enabled", True),
    conda:
        engine_environment
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(240),
    params:
        settings=settings("candidates"),
        code=RUN.code("predict_candidates"),
    message:
        "Predict candidates of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.predict_candidates --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.run}/{wildcards.split}u} --images {input.images}"
        " --model {input.model}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"


rule score_masks:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        masks=of_stage("masks", "{split}/masks/{shard}.parquet"),
        assignments=assignments,
    output:
        "results/{run}/seed-{seed}/{split}/candidates/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/{split}/candidates/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{split}/scored_masks/{shard}.tsv"
    wildcard_constraints:
        run=runs_with("mask_rcnn", "enabled", False),
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        settings=settings("curation.classes"),
        code=RUN.code("score_masks"),
    message:
        "Score masks of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.score_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --images {input.images} --masks {input.masks} --assignments {input.assignments}"
        " --output {output} > {log} 2>&1"


rule write_results:
    input:
        images=all_shards("images", "{split}/images"),
        candidates=all_shards("candidates", "seed-{seed}/{split}/candidates"),
    output:
        "results/{dataset}/seed-{seed}/{split}/candidates.json",
    log:
        "logs/{dataset}/seed-{seed}/{split}/candidates.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/{split}/candidates.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        settings=settings(),
        code=RUN.code("write_results"),
    message:
        "Write candidates of {wildcards.dataset} {wildcards.split} as COCO results"
    shell:
        "exec python -m workflow_scripts.write_results --settings {params.settings:q}"
        " --code {params.code}"
        " --images {ALL:{input.images}u}"
        " --max-rejected {MAX_REJECTED:{wildcards.dataset}u}"
        " --candidates {ALL:{input.candidates}u} --output {output} > {log} 2>&1"
