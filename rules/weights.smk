# Files that others publish: weights. Whatever is here already is no rule's output,
# so that nothing ever removes it or fetches it again; put a file at its path to do without network.

MISSING_FILES = [path for path in RUN.catalogue["files"] if not Path(path).is_file()]


localrules:
    download_file,


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
