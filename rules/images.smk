# Lists of the images of each shard, with a check of which ones can be read.


def generated_dataset(wildcards):
    """The file that marks a generated dataset as complete; nothing for other datasets."""
    generated = RUN.origin(wildcards.dataset, wildcards.split) == "generated"
    return f"data/{wildcards.dataset}/complete.json" if generated else []


rule list_images:
    input:
        generated_dataset,
        downloaded_files,
    output:
        "results/{dataset}/{split}/images/{shard}.parquet",
    log:
        "logs/{dataset}/{split}/images/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/{split}/images/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 2
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.splits.{split}",
            "shards",
            "images.max_pixels",
            "images.min_side",
        ),
        code=RUN.code("list_images"),
        listing=lambda wildcards: RUN.listing_digest(
            wildcards.dataset, wildcards.split, int(wildcards.shard)
        ),
    message:
        "List images of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.list_images --settings {params.settings:q}"
        " --code {params.code}"
        " --listing {params.listing}"
        " --root {ROOT:{wildcards.dataset}/{wildcards.split}u} --split {wildcards.split}"
        " --shard {wildcards.shard} --max-rejected {MAX_REJECTED:{wildcards.dataset}u}"
        " --workers {threads} --output {output} > {log} 2>&1"
