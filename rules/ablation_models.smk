# Models of the variants and their label maps, as far as they have their own.


use rule write_pseudo_labels as write_variant_pseudo_labels with:
    input:
        images=all_shards("results/{dataset}/train/images"),
        masks=shards_of_variant("masks", "train/masks", "train"),
        assignments="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.parquet",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.json",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.tsv"
    message:
        "Write pseudo-labels of {wildcards.dataset}, variant {wildcards.variant}"


use rule train_mask_rcnn as train_variant_mask_rcnn with:
    input:
        pseudo_labels="results/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.json",
        weights=weights_of("mask_rcnn"),
    output:
        model="results/{dataset}/ablations/{variant}/seed-{seed}/mask_rcnn/model.pt",
        history="results/{dataset}/ablations/{variant}/seed-{seed}/mask_rcnn/history.csv",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/mask_rcnn/model.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/mask_rcnn/model.tsv"
    message:
        "Train Mask R-CNN on {wildcards.dataset}, variant {wildcards.variant}"


use rule predict_candidates as predict_variant_candidates with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        model="results/{dataset}/ablations/{variant}/seed-{seed}/mask_rcnn/model.pt",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/{split}/candidates/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/candidates/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/candidates/{shard}.tsv"
    message:
        "Predict candidates of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


use rule filter_candidates as filter_variant_candidates with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        candidates=of_variant("candidates", "seed-{seed}/{split}/candidates/{shard}.parquet"),
    output:
        confident="results/{dataset}/ablations/{variant}/seed-{seed}/{split}/confident/{shard}.parquet",
        label_maps="results/{dataset}/ablations/{variant}/seed-{seed}/{split}/label_maps/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/confident/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/confident/{shard}.tsv"
    message:
        "Filter candidates of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


use rule train_segmentation as train_variant_segmentation with:
    input:
        label_maps=shards_of_variant("confident", "seed-{seed}/train/label_maps", "train"),
        weights=weights_of("segmentation"),
    output:
        model="results/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.pt",
        history="results/{dataset}/ablations/{variant}/seed-{seed}/segmentation/history.csv",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.tsv"
    params:
        label_maps=of_variant("confident", "seed-{seed}/train/label_maps"),
    message:
        "Train DeepLab-v3 on {wildcards.dataset}, variant {wildcards.variant}"


use rule predict_segmentation as predict_variant_segmentation with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        model="results/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.pt",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/{split}/predictions/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/predictions/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/predictions/{shard}.tsv"
    message:
        "Predict label maps of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


rule paint_boxes:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        confident="results/{dataset}/seed-{seed}/{split}/confident/{shard}.parquet",
    output:
        "results/{dataset}/ablations/boxes/seed-{seed}/{split}/{boxes}/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/boxes/seed-{seed}/{split}/{boxes}/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/boxes/seed-{seed}/{split}/{boxes}/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(240),
    params:
        settings=settings("clustering.clusters"),
        code=RUN.code("paint_boxes"),
        option=lambda wildcards: "--grabcut" if wildcards.boxes == "grabcut" else "",
    message:
        "Paint boxes of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.paint_boxes --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}} --images {input.images}"
        " --confident {input.confident} {params.option} --output {output} > {log} 2>&1"
