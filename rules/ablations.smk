# Rules that only the ablations use: the baselines DINO-seg and LOST, and label maps of boxes. All
# other variants use the rules of a normal run and write to results/DATASET/ablations/VARIANT.


wildcard_constraints:
    baseline=one_of(BASELINES),
    boxes="boxes|grabcut",


# A baseline is a variant that finds its masks by another method.
ruleorder: find_baseline_masks > make_masks


BASELINE_SETTINGS = {
    "dino_seg": settings("evaluation.ablations.dino_seg_mass"),
    "lost": settings("masks.center_keys", "evaluation.ablations.lost_patches"),
}


rule find_baseline_masks:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        features="results/{dataset}/{split}/features/{shard}.parquet",
    output:
        "results/{dataset}/ablations/{baseline}/{split}/masks/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{baseline}/{split}/masks/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{baseline}/{split}/masks/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=lambda wildcards: BASELINE_SETTINGS[wildcards.baseline](wildcards),
        code=RUN.code("find_baseline_masks"),
    message:
        "Find masks of {wildcards.dataset} {wildcards.split} by {wildcards.baseline}"
    shell:
        "exec python -m workflow_scripts.find_baseline_masks --settings {params.settings:q}"
        " --code {params.code}"
        " --baseline {wildcards.baseline} --images {input.images} --features {input.features}"
        " --output {output} > {log} 2>&1"


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
        " --root {ROOT:{wildcards.dataset}u} --images {input.images}"
        " --confident {input.confident} {params.option} --output {output} > {log} 2>&1"


def variant_steps(run, folder):
    """The steps of a variant that are scored: name → folder of label maps.

    Args:
        folder: folder of the evaluated split of one seed.
    """
    dataset, variant, _ = parts_of(run)
    if variant == "boxes":
        return {
            "mask_rcnn_boxes": f"{folder}/boxes",
            "mask_rcnn_boxes_grabcut": f"{folder}/grabcut",
        }
    if variant == "all_pixels":
        return {"segmentation": f"{folder}/predictions"}
    if RUN.variants[dataset][variant].first == "confident":
        steps = {"mask_rcnn": f"{folder}/label_maps"}
        if CONFIGS[dataset]["evaluation"]["ablations"]["train_segmentation"]:
            steps["segmentation"] = f"{folder}/predictions"
        return steps
    steps = {"initial_masks": f"{folder}/initial_label_maps"}
    if RUN.has_candidates(run):
        steps["mask_rcnn"] = f"{folder}/label_maps"
    return steps
