# The paper's tables and figures: `snakemake ablations`, or one of them, `snakemake table_1`. What
# they vary lies in results/DATASET/ablations/VARIANT; everything else is the run's own.
from workflow_scripts.maskdistill.runs.variants import BASELINES


wildcard_constraints:
    variant=one_of(sorted({name for found in RUN.variants.values() for name in found})),
    baseline=one_of(BASELINES),
    boxes="boxes|grabcut",


def of_variant(stage, pattern):
    """An input function: a path where a variant has that stage, see `Run.folder`.

    A split that is not known is the one whose objects are evaluated.
    """

    def path(wildcards):
        known = {"split": RUN.instance_split(wildcards.dataset), **dict(wildcards.items())}
        return f"{RUN.folder(wildcards.dataset, wildcards.variant, stage)}/{pattern}".format(
            **known
        )

    return path


def shards_of_variant(stage, folder, split=None):
    """An input function: all shards in a folder, as `of_variant`."""
    path = of_variant(stage, folder)
    return lambda wildcards: shards_of(
        wildcards.dataset,
        split or RUN.instance_split(wildcards.dataset),
        path(wildcards),
    )


def trains_mask_rcnn(dataset, variant):
    """Whether a variant has a Mask R-CNN of its own."""
    found = RUN.variants[dataset][variant]
    own = found.first in ("masks", "clusters") and variant not in BASELINES
    return own and CONFIGS[dataset]["evaluation"]["ablations"]["train_mask_rcnn"]
