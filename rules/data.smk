# Datasets that the workflow downloads and unpacks. A dataset that is already on the disk is not the
# output of any rule, so that it is never removed or downloaded again. The user's own copy, in any
# folder but data/NAME, is only read.

DOWNLOADED = "data/{name}/downloaded.json"  # marks a complete dataset
MISSING_DATASETS = [
    name for name in RUN.catalogue["datasets"] if not Path(DOWNLOADED.format(name=name)).is_file()
]


def downloaded_files(wildcards):
    """The marker of a downloaded dataset, and the lists of its images."""
    if wildcards.split in RUN.applied:
        return []
    dataset = CONFIGS[wildcards.dataset]["dataset"]
    files = []
    if RUN.origin(wildcards.dataset) == "downloaded":
        files.append(DOWNLOADED.format(name=dataset["download"]))
    if dataset["adapter"] == "coco":
        split = dataset["splits"][wildcards.split]
        lists = [split.get("image_list"), split.get("excluded_list")]
        # Lists in this repository are left out, because their paths differ between checkouts.
        files += [path for path in lists if path and Path(path).is_file()]
    return files


localrules:
    download_dataset,


rule download_dataset:
    output:
        DOWNLOADED,
    log:
        "logs/data/{name}.log",
    benchmark:
        "benchmarks/data/{name}.tsv"
    wildcard_constraints:
        name=one_of(MISSING_DATASETS),
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(720),
    params:
        settings=lambda wildcards: canonical_json(RUN.catalogue["datasets"][wildcards.name]),
    message:
        "Download and unpack {wildcards.name}"
    shell:
        "exec python -m workflow_scripts.download_dataset --settings {params.settings:q}"
        " --checksums {CHECKSUMS} --archives {ARCHIVES} --output {output} > {log} 2>&1"
