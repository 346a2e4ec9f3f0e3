# Downloads of published weights. A file that already exists is not the output of any rule, so that
# it is never removed or downloaded again. Without a network, put the file at its path by hand.

MISSING_FILES = [path for path in RUN.catalogue["files"] if not Path(path).is_file()]
MISSING_BACKBONES = [name for path, name in RUN.timm_weights().items() if not Path(path).is_file()]


def weights_of(stage):
    """An input function: the local weights file of a stage, if there is one.

    Its modification time is ignored; `weights_digest` detects changes of its content.
    """

    def path(wildcards):
        found = CONFIGS[dataset_of(wildcards)][stage]["weights"]
        return ancient(found) if found else []

    return path


def weights_digest(stage):
    """A parameter: digest of the weights of a stage, see `Run.weights_digest`."""
    return lambda wildcards: RUN.weights_digest(CONFIGS[dataset_of(wildcards)][stage]["weights"])


# These rules run on the machine where Snakemake runs, because compute nodes may have no network.
localrules:
    download_file,
    fetch_weights,


rule download_file:
    output:
        "{file}",
    log:
        "logs/{file}.log",
    benchmark:
        "benchmarks/{file}.tsv"
    wildcard_constraints:
        file=one_of(MISSING_FILES),
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(240),
    params:
        settings=lambda wildcards: canonical_json(RUN.catalogue["files"][wildcards.file]),
    message:
        "Download {wildcards.file}"
    shell:
        "exec python -m workflow_scripts.download_file --settings {params.settings:q}"
        " --checksums {CHECKSUMS} --output {output} > {log} 2>&1"


rule fetch_weights:
    output:
        "data/weights/{backbone}.safetensors",
    log:
        "logs/data/weights/{backbone}.log",
    benchmark:
        "benchmarks/data/weights/{backbone}.tsv"
    wildcard_constraints:
        backbone=one_of(MISSING_BACKBONES),
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(240),
    message:
        "Fetch the weights of {wildcards.backbone}"
    shell:
        "exec python -m workflow_scripts.fetch_weights --backbone {wildcards.backbone}"
        " --checksums {CHECKSUMS} --output {output} > {log} 2>&1"
