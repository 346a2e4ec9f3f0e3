# The paper's tables and figures: `snakemake ablations`, or one of them, `snakemake table_1`. What
# they vary lies in results/DATASET/ablations/VARIANT; everything else is the run's own.
from workflow_scripts.maskdistill.settings.layers import merge
from workflow_scripts.maskdistill.paper.variants import BASELINES, MAIN, has_own, variants

VARIANTS = {name: variants(settings) for name, settings in CONFIGS.items()}


wildcard_constraints:
    variant=one_of(sorted({name for found in VARIANTS.values() for name in found})),
    baseline=one_of(BASELINES),
    boxes="boxes|grabcut",


def variant_settings(rule):
    """What a rule depends on in a variant, as `settings_of`.

    The names of the run's clusters hold for variants that have no others.
    """

    def settings(wildcards):
        variant = VARIANTS[wildcards.dataset][wildcards.variant]
        names = {} if has_own(variant, "clusters") else names_of(wildcards)
        changed = merge(CONFIGS[wildcards.dataset], variant.changes)
        return canonical_json(rule_settings(rule, changed, names))

    return settings


def base_of(dataset, variant, stage):
    """Folder of a stage as a variant sees it: its own, or that of the run."""
    own = variant != MAIN and has_own(VARIANTS[dataset][variant], stage)
    return f"results/{dataset}/ablations/{variant}" if own else f"results/{dataset}"


def of_variant(stage, pattern):
    """An input function: a path below `base_of`; {split} has evaluated objects if not known."""

    def path(wildcards):
        known = {"split": instance_split(CONFIGS[wildcards.dataset]), **dict(wildcards.items())}
        return f"{base_of(wildcards.dataset, wildcards.variant, stage)}/{pattern}".format(**known)

    return path


def shards_of_variant(stage, folder, split=None):
    """An input function: all shards of a folder below `base_of`, of evaluated objects if no split."""
    path = of_variant(stage, folder)
    return lambda wildcards: shards_of(
        wildcards.dataset,
        f"{path(wildcards)}/{{shard}}.parquet",
        split or instance_split(CONFIGS[wildcards.dataset]),
    )


def trains_mask_rcnn(dataset, variant):
    """Whether a variant has a Mask R-CNN of its own."""
    found = VARIANTS[dataset][variant]
    own = found.first in ("masks", "clusters") and variant not in BASELINES
    return own and CONFIGS[dataset]["evaluation"]["ablations"]["train_mask_rcnn"]
