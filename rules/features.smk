# Queries and keys of the backbone's last attention block (Eq. 1 and 2).


rule extract_features:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        weights=weights_of("features"),
    output:
        "results/{dataset}/{split}/features/{shard}.parquet",
    log:
        "logs/{dataset}/{split}/features/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/{split}/features/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        gpu=GPUS,
        mem_mb=attempts(8000),
        runtime=attempts(120),
    params:
        settings=settings("features"),
        code=RUN.code("extract_features"),
        weights=weights_digest("features"),
    message:
        "Extract features of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.extract_features --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}u} --images {input.images}"
        " {DEVICE} {BATCH} --workers {threads} --output {output} > {log} 2>&1"
