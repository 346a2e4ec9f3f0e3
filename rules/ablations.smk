# The paper's tables and figures: `snakemake ablations`, or one of them, `snakemake table_1`. What
# they vary lies in results/DATASET/ablations/VARIANT; everything else is the run's own.
from workflow_scripts.maskdistill.config import merge
from workflow_scripts.maskdistill.variants import (
    BASELINES,
    ITEMS,
    MAIN,
    SWEEPS,
    has_own,
    sweep,
    variants,
)

VARIANTS = {name: variants(settings) for name, settings in CONFIGS.items()}


wildcard_constraints:
    variant=one_of(sorted({name for found in VARIANTS.values() for name in found})),
    top_k=one_of(
        sorted({str(k) for c in CONFIGS.values() for k in c["evaluation"]["ablations"]["top_k"]})
    ),
    baseline=one_of(BASELINES),
    boxes="boxes|grabcut",
    item=one_of(ITEMS),


def variant_settings(rule):
    """What a rule depends on in a variant, as `settings_of`."""

    def settings(wildcards):
        variant = VARIANTS[wildcards.dataset][wildcards.variant]
        return canonical_json(
            rule_settings(rule, merge(CONFIGS[wildcards.dataset], variant.changes))
        )

    return settings


def base_of(dataset, variant, stage):
    """Folder of a stage as a variant sees it: its own, or that of the run."""
    own = variant != MAIN and has_own(VARIANTS[dataset][variant], stage)
    return f"results/{dataset}/ablations/{variant}" if own else f"results/{dataset}"


def of_variant(stage, pattern):
    """An input function: a path below `base_of`, with {split} as the evaluated one if not known."""

    def path(wildcards):
        known = {"split": evaluated_split(CONFIGS[wildcards.dataset]), **dict(wildcards.items())}
        return f"{base_of(wildcards.dataset, wildcards.variant, stage)}/{pattern}".format(**known)

    return path


def shards_of_variant(stage, folder):
    """An input function: all shards of a folder below `base_of`."""
    path = of_variant(stage, folder)
    return lambda wildcards: shards_of(wildcards.dataset, f"{path(wildcards)}/{{shard}}.parquet")


def trains_mask_rcnn(dataset, variant):
    """Whether a variant has a Mask R-CNN of its own."""
    found = VARIANTS[dataset][variant]
    own = found.first in ("masks", "clusters") and variant not in BASELINES
    return own and CONFIGS[dataset]["evaluation"]["ablations"]["train_mask_rcnn"]


def variant_steps(wildcards):
    """The steps of a variant that are scored: name → folder of label maps."""
    dataset, variant = wildcards.dataset, wildcards.variant
    split = evaluated_split(CONFIGS[dataset])
    base = f"results/{dataset}/ablations/{variant}/seed-{wildcards.seed}/{split}"
    if variant == "boxes":
        return {"mask_rcnn_boxes": f"{base}/boxes", "mask_rcnn_boxes_grabcut": f"{base}/grabcut"}
    if variant == "all_pixels":
        return {"segmentation": f"{base}/predictions"}
    if VARIANTS[dataset][variant].first == "confident":
        steps = {"mask_rcnn": f"{base}/label_maps"}
        if CONFIGS[dataset]["evaluation"]["ablations"]["train_segmentation"]:
            steps["segmentation"] = f"{base}/predictions"
        return steps
    steps = {"initial_masks": f"{base}/initial_label_maps"}
    if trains_mask_rcnn(dataset, variant):
        steps["mask_rcnn"] = f"{base}/label_maps"
    return steps


use rule make_masks as make_variant_masks with:
    output:
        "results/{dataset}/ablations/top_k-{top_k}/{split}/masks/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/top_k-{top_k}/{split}/masks/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/top_k-{top_k}/{split}/masks/{shard}.tsv"
    params:
        settings=lambda wildcards: canonical_json(
            rule_settings(
                "make_masks",
                merge(CONFIGS[wildcards.dataset], {"masks": {"top_k": float(wildcards.top_k)}}),
            )
        ),
        code=code_of("make_masks"),
    message:
        "Make masks of {wildcards.dataset} {wildcards.split}, top-k {wildcards.top_k}"


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
        settings=lambda wildcards: settings_of(wildcards.baseline)(wildcards),
        code=code_of("find_baseline_masks"),
    message:
        "Find masks of {wildcards.dataset} {wildcards.split} by {wildcards.baseline}"
    shell:
        "exec python -m workflow_scripts.find_baseline_masks --settings {params.settings:q}"
        " --baseline {wildcards.baseline} --images {input.images} --features {input.features}"
        " --output {output} > {log} 2>&1"


use rule embed_masks as embed_variant_masks with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        masks="results/{dataset}/ablations/{variant}/{split}/masks/{shard}.parquet",
        weights=embedder_weights,
    output:
        "results/{dataset}/ablations/{variant}/{split}/mask_embeddings/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/{split}/mask_embeddings/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/{split}/mask_embeddings/{shard}.tsv"
    message:
        "Embed masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


use rule cluster_masks as cluster_variant_masks with:
    input:
        embeddings=shards_of_variant("masks", "train/mask_embeddings"),
        support=support_embeddings,
    output:
        assignments="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.parquet",
        centroids="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/centroids.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.tsv"
    params:
        settings=variant_settings("cluster_masks"),
        code=code_of("cluster_masks"),
    message:
        "Cluster masks of {wildcards.dataset}, variant {wildcards.variant}, seed {wildcards.seed}"


use rule assign_masks as assign_variant_masks with:
    input:
        embeddings=of_variant("masks", "{split}/mask_embeddings/{shard}.parquet"),
        centroids="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/centroids.parquet",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/{split}/assignments/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/assignments/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/assignments/{shard}.tsv"
    message:
        "Assign masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


def variant_assignments(wildcards):
    """Clusters of the masks of the evaluated split in a variant, one shard or all."""
    base = f"results/{wildcards.dataset}/ablations/{wildcards.variant}/seed-{wildcards.seed}"
    split = evaluated_split(CONFIGS[wildcards.dataset])
    if split == "train":
        return f"{base}/clusters/assignments.parquet"
    if hasattr(wildcards, "shard"):
        return f"{base}/{split}/assignments/{wildcards.shard}.parquet"
    return shards_of(wildcards.dataset, f"{base}/{split}/assignments/{{shard}}.parquet")


use rule paint_masks as paint_variant_masks with:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        masks=of_variant("masks", "{split}/masks/{shard}.parquet"),
        assignments=variant_assignments,
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/{split}/initial_label_maps/{shard}.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/{split}/initial_label_maps/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/{split}/initial_label_maps/{shard}.tsv"
    params:
        settings=variant_settings("paint_masks"),
        code=code_of("paint_masks"),
    message:
        "Paint masks of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


use rule write_pseudo_labels as write_variant_pseudo_labels with:
    input:
        images=all_shards("results/{dataset}/train/images/{shard}.parquet"),
        masks=shards_of_variant("masks", "train/masks"),
        assignments="results/{dataset}/ablations/{variant}/seed-{seed}/clusters/assignments.parquet",
    output:
        "results/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.json",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/pseudo_labels.tsv"
    params:
        settings=variant_settings("write_pseudo_labels"),
        code=code_of("write_pseudo_labels"),
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
    params:
        settings=variant_settings("filter_candidates"),
        code=code_of("filter_candidates"),
    message:
        "Filter candidates of {wildcards.dataset} {wildcards.split}, variant {wildcards.variant}"


use rule train_segmentation as train_variant_segmentation with:
    input:
        label_maps=shards_of_variant("confident", "seed-{seed}/train/label_maps"),
        weights=weights_of("segmentation"),
    output:
        model="results/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.pt",
        history="results/{dataset}/ablations/{variant}/seed-{seed}/segmentation/history.csv",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/segmentation/model.tsv"
    params:
        settings=variant_settings("train_segmentation"),
        code=code_of("train_segmentation"),
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
    params:
        settings=variant_settings("predict_segmentation"),
        code=code_of("predict_segmentation"),
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
        settings=settings_of("paint_boxes"),
        code=code_of("paint_boxes"),
        option=lambda wildcards: "--grabcut" if wildcards.boxes == "grabcut" else "",
    message:
        "Paint boxes of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.paint_boxes --settings {params.settings:q}"
        " --root {ROOTS:{wildcards.dataset}} --images {input.images}"
        " --confident {input.confident} {params.option} --output {output} > {log} 2>&1"


use rule evaluate as evaluate_variant with:
    input:
        images=evaluated("results/{dataset}/{split}/images/{shard}.parquet"),
        steps=lambda wildcards: [
            path
            for folder in variant_steps(wildcards).values()
            for path in shards_of(wildcards.dataset, f"{folder}/{{shard}}.parquet")
        ],
    output:
        metrics="results/{dataset}/ablations/{variant}/seed-{seed}/metrics.json",
        csv="results/{dataset}/ablations/{variant}/seed-{seed}/per_class.csv",
        parquet="results/{dataset}/ablations/{variant}/seed-{seed}/per_class.parquet",
    log:
        "logs/{dataset}/ablations/{variant}/seed-{seed}/metrics.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{variant}/seed-{seed}/metrics.tsv"
    params:
        settings=variant_settings("evaluate"),
        code=code_of("evaluate"),
        steps=lambda wildcards: options_of_steps(wildcards.dataset, variant_steps(wildcards)),
    message:
        "Evaluate {wildcards.dataset}, variant {wildcards.variant}, seed {wildcards.seed}"


use rule evaluate_instances as evaluate_variant_instances with:
    input:
        images=evaluated("results/{dataset}/{split}/images/{shard}.parquet"),
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
    params:
        settings=variant_settings("evaluate_instances"),
        code=code_of("evaluate_instances"),
    message:
        "Evaluate masks of {wildcards.dataset}, variant {wildcards.variant}, seed {wildcards.seed}"


def ablation_seeds(dataset):
    """Seeds of the ablations; where the run lacks one, its own stages are run with it too."""
    return CONFIGS[dataset]["evaluation"]["ablations"]["seeds"] or CONFIGS[dataset]["seeds"]


def ablation_sources(dataset, item):
    """What an item is made of: kind of file → variant → its files, one a seed."""
    swept = sweep(item, CONFIGS[dataset]).values() if item in SWEEPS else []
    wanted = {
        "table_1": {"metrics": ["all_pixels"]},
        "table_s1": {"metrics": ["boxes"]},
        "table_2": {"linear_probe": [MAIN]},
        "table_s2": {"linear_probe": [MAIN]},
        "table_3": {"instances": [MAIN, *BASELINES]},
        "figure_3": {"instances": swept},
        "figure_4": {"instances": swept},
        "figure_5": {"metrics": swept},
    }[item]
    return {
        kind: {
            variant: [
                f"{base_of(dataset, variant, 'segmentation')}/seed-{seed}/{kind}.json"
                for seed in ablation_seeds(dataset)
            ]
            for variant in dict.fromkeys([MAIN] * (kind == "metrics") + list(names))
        }
        for kind, names in {"metrics": [], **wanted}.items()
    }


def ablation_options(wildcards):
    """The command line of an item, less its outputs."""
    dataset, item = wildcards.dataset, wildcards.item
    options = [f"--seeds {' '.join(map(str, ablation_seeds(dataset)))}"]
    for kind, found in ablation_sources(dataset, item).items():
        option = "--linear-probes" if kind == "linear_probe" else f"--{kind}"
        options += [f"{option} {name} {' '.join(paths)}" for name, paths in found.items()]
    if item in SWEEPS:
        swept = sweep(item, CONFIGS[dataset])
        options += [f"--sweep {value} {name}" for value, name in swept.items()]
        path = f"results/{dataset}/ablations/{item}"
        options += [f"--svg {path}.svg --overclustering-csv {path}_overclustering.csv"]
    return " ".join(options)


def ablation_output(name):
    """A file of an item, shown by `snakemake --report`."""
    return report(
        f"results/{{dataset}}/ablations/{name}",
        caption="captions/ablations.rst",
        category="Ablations",
        labels={"dataset": "{dataset}", "what": "{item}", "file": name.rpartition(".")[2]},
    )


rule tabulate_ablation:
    input:
        lambda wildcards: [
            path
            for found in ablation_sources(wildcards.dataset, wildcards.item).values()
            for paths in found.values()
            for path in paths
        ],
    output:
        json="results/{dataset}/ablations/{item,table_s?[0-9]}.json",
        csv=ablation_output("{item,table_s?[0-9]}.csv"),
    log:
        "logs/{dataset}/ablations/{item}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{item}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        settings=settings_of("tabulate_ablation"),
        code=code_of("tabulate_ablation"),
        resources=digest_of(PAPER_TABLES),
        options=ablation_options,
    message:
        "Tabulate {wildcards.item} of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.tabulate_ablation --settings {params.settings:q}"
        " --item {wildcards.item} {params.options}"
        " --paper-tables {HOME}/{PAPER_TABLES}"
        " --json {output.json} --csv {output.csv} > {log} 2>&1"


# A figure is a table and its charts; what is overclustered has a table of its own.
use rule tabulate_ablation as draw_ablation with:
    output:
        json="results/{dataset}/ablations/{item,figure_[0-9]}.json",
        csv=ablation_output("{item,figure_[0-9]}.csv"),
        overclustering=ablation_output("{item,figure_[0-9]}_overclustering.csv"),
        svg=ablation_output("{item,figure_[0-9]}.svg"),


rule report_ablations:
    input:
        tables=expand("results/{{dataset}}/ablations/{item}.json", item=ITEMS),
        figures=expand("results/{{dataset}}/ablations/{item}.svg", item=SWEEPS),
    output:
        report(
            "results/{dataset}/ablations/report.html",
            caption="captions/ablations_report.rst",
            category="Reports",
            labels={"dataset": "{dataset}, ablations"},
        ),
    log:
        "logs/{dataset}/ablations/report.log",
    benchmark:
        "benchmarks/{dataset}/ablations/report.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        code=code_of("report_ablations"),
        resources=digest_of("workflow_scripts/maskdistill/templates/ablations.html.j2"),
    message:
        "Write the report of the ablations of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.report_ablations --dataset {wildcards.dataset}"
        " --items {input.tables} --figures {input.figures} --output {output} > {log} 2>&1"


SCORED = [name for name in config["datasets"] if has_ground_truth(name)]


rule ablations:
    input:
        expand("results/{dataset}/ablations/report.html", dataset=SCORED),


for wanted in ITEMS:

    # One target for each table and figure: `snakemake table_1`.
    rule:
        name:
            wanted
        input:
            expand("results/{dataset}/ablations/{item}.json", dataset=SCORED, item=wanted),
