# The paper's tables and figures: `snakemake ablations`, or one of them, `snakemake table_1`. What
# they vary lies in results/DATASET/ablations/VARIANT; everything else is the run's own.


include: "ablations/variants.smk"
include: "ablations/masks.smk"
include: "ablations/models.smk"
include: "ablations/evaluation.smk"
include: "ablations/tables.smk"
