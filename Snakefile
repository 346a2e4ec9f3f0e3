"""MaskDistill: from a folder of unlabelled images to masks, clusters and a segmentation model."""

from snakemake.utils import min_version

min_version("9.0")


if workflow.is_main_process:  # jobs read the config that this process stores, see rules/run.smk

    configfile: workflow.source_path("config/default.yaml")


include: "rules/run.smk"
include: "rules/common.smk"
include: "rules/weights.smk"
include: "rules/data.smk"
include: "rules/demo.smk"
include: "rules/images.smk"
include: "rules/features.smk"
include: "rules/masks.smk"
include: "rules/clusters.smk"
include: "rules/mask_rcnn.smk"
include: "rules/confidence.smk"
include: "rules/segmentation.smk"
include: "rules/evaluation.smk"
include: "rules/linear_probe.smk"
include: "rules/report.smk"
include: "rules/gallery.smk"
include: "rules/exports.smk"
include: "rules/apply.smk"
include: "rules/ablations.smk"
include: "rules/ablation_tables.smk"


rule all:
    default_target: True
    input:
        [target for dataset in config["datasets"] for target in RUN.targets(dataset)],
