# The trained models on new folders of images: each is a further split, applied/NAME.


rule describe_use:
    output:
        "results/{dataset}/seed-{seed}/use.json",
    log:
        "logs/{dataset}/seed-{seed}/use.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/use.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        settings=settings_of("describe_use"),
        code=code_of("describe_use"),
    message:
        "Describe the use of the models of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.describe_use --settings {params.settings:q}"
        " --code {params.code} --output {output} > {log} 2>&1"


def applied_folder(wildcards, stage):
    """Folder of the shards of a stage, of a folder of new images."""
    dataset, split, seed = wildcards.dataset, wildcards.split, first_seed(wildcards.dataset)
    base = f"results/{dataset}"
    return {
        "images": f"{base}/{split}/images",
        "confident": f"{base}/seed-{seed}/{split}/confident",
        "predictions": (
            f"{base}/seed-{seed}/round-{last_round(dataset)}/{split}/{final_predictions(dataset)}"
        ),
    }[stage]


def applied_shards(stage):
    """An input function: all shards of a stage."""
    return lambda wildcards: shards_of(
        wildcards.dataset, f"{applied_folder(wildcards, stage)}/{{shard}}.parquet", wildcards.split
    )


def applied_options(wildcards):
    """The shards on the command line, for the shell to expand."""
    shards = SHARDS[f"{wildcards.dataset}/{wildcards.split}"]
    return " ".join(
        f"--{stage} {shlex.quote(applied_folder(wildcards, stage))}/{shards}.parquet"
        for stage in ("images", "confident", "predictions")
    )


rule write_applied:
    input:
        images=applied_shards("images"),
        confident=applied_shards("confident"),
        predictions=applied_shards("predictions"),
    output:
        label_maps=directory("results/{dataset}/{split}/label_maps"),
        overlays=directory("results/{dataset}/{split}/overlays"),
        coco="results/{dataset}/{split}/objects.json",
        rejected="results/{dataset}/{split}/rejected.csv",
    log:
        "logs/{dataset}/{split}/label_maps.log",
    benchmark:
        "benchmarks/{dataset}/{split}/label_maps.tsv"
    wildcard_constraints:
        split="applied/[^/]+",
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(120),
    params:
        settings=settings_of("write_applied"),
        code=code_of("write_applied"),
        options=applied_options,
    message:
        "Write what was found in {wildcards.split} by {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.write_applied --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOTS:{wildcards.dataset}/{wildcards.split}} {params.options}"
        " --label-maps {output.label_maps:q} --overlays {output.overlays:q}"
        " --objects {output.coco:q} --rejected {output.rejected:q} > {log:q} 2>&1"


rule apply:
    input:
        [
            path
            for dataset in config["datasets"]
            for split in APPLIED
            for path in (
                f"results/{dataset}/{split}/objects.json",
                f"results/{dataset}/seed-{first_seed(dataset)}/{split}/candidates.json",
            )
        ],
