# Scores of the variants.


def variant_steps(wildcards):
    """The steps of a variant that are scored: name → folder of label maps."""
    dataset, variant = wildcards.dataset, wildcards.variant
    split = RUN.evaluated_split(dataset)
    base = f"results/{dataset}/ablations/{variant}/seed-{wildcards.seed}/{split}"
    if variant == "boxes":
        return {"mask_rcnn_boxes": f"{base}/boxes", "mask_rcnn_boxes_grabcut": f"{base}/grabcut"}
    if variant == "all_pixels":
        return {"segmentation": f"{base}/predictions"}
    if RUN.variants[dataset][variant].first == "confident":
        steps = {"mask_rcnn": f"{base}/label_maps"}
        if CONFIGS[dataset]["evaluation"]["ablations"]["train_segmentation"]:
            steps["segmentation"] = f"{base}/predictions"
        return steps
    steps = {"initial_masks": f"{base}/initial_label_maps"}
    if trains_mask_rcnn(dataset, variant):
        steps["mask_rcnn"] = f"{base}/label_maps"
    return steps


use rule evaluate as evaluate_variant with:
    input:
        images=all_shards("results/{dataset}/{split}/images", RUN.evaluated_split),
        steps=lambda wildcards: step_shards(wildcards.dataset, variant_steps(wildcards)),
    output:
        metrics="results/{dataset}/ablations/{variant}/seed-{seed}/metrics.json",
        csv="results/{dataset}/ablations/{variant}/seed-{seed}/per_class.csv",
        parquet="results/{dataset}/ablations/{variant}/seed-{seed}/per_class.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/metrics.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/metrics.tsv"
    params:
        steps=lambda wildcards: options_of_steps(wildcards.dataset, variant_steps(wildcards)),
    message:
        "Evaluate {wildcards.dataset}, variant {wildcards.variant}, seed {wildcards.seed}"


use rule evaluate_instances as evaluate_variant_instances with:
    input:
        images=all_shards("results/{dataset}/{split}/images", RUN.instance_split),
        masks=shards_of_variant("masks", "{split}/masks"),
        assignments=variant_assignments,
        candidates=lambda wildcards: (
            shards_of_variant("candidates", "seed-{seed}/{split}/candidates")(wildcards)
            if trains_mask_rcnn(wildcards.dataset, wildcards.variant)
            else []
        ),
        metrics="results/{dataset}/ablations/{variant}/seed-{seed}/metrics.json",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/instances.json",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/instances.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/instances.tsv"
    message:
        "Evaluate masks of {wildcards.dataset}, variant {wildcards.variant}, seed {wildcards.seed}"
