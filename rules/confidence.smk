# Confident candidates and their label maps.


rule filter_candidates:
    input:
        images="results/{dataset}/{split}/images/{shard}.parquet",
        candidates="results/{dataset}/seed-{seed}/{split}/candidates/{shard}.parquet",
    output:
        confident="results/{dataset}/seed-{seed}/{split}/confident/{shard}.parquet",
        label_maps="results/{dataset}/seed-{seed}/{split}/label_maps/{shard}.parquet",
    log:
        "logs/{dataset}/seed-{seed}/{split}/confident/{shard}.log",
    benchmark:
        "benchmarks/{dataset}/seed-{seed}/{split}/confident/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        settings=settings("confidence.threshold", "clustering.clusters"),
        code=RUN.code("filter_candidates"),
    message:
        "Filter candidates of {wildcards.dataset} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.filter_candidates --settings {params.settings:q}"
        " --code {params.code}"
        " --images {input.images} --candidates {input.candidates}"
        " --confident {output.confident} --label-maps {output.label_maps} > {log} 2>&1"
