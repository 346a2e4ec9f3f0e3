# Keeps the candidates (predicted masks) with high scores and paints label maps with them.


rule filter_candidates:
    input:
        images=of_stage("images", "{split}/images/{shard}.parquet"),
        candidates=of_stage("candidates", "seed-{seed}/{split}/candidates/{shard}.parquet"),
    output:
        confident="results/{run}/seed-{seed}/{split}/confident/{shard}.parquet",
        label_maps="results/{run}/seed-{seed}/{split}/label_maps/{shard}.parquet",
    log:
        "logs/{run}/seed-{seed}/{split}/confident/{shard}.log",
    benchmark:
        "benchmarks/{run}/seed-{seed}/{split}/confident/{shard}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        settings=settings("confidence", "clustering.clusters"),
        code=RUN.code("filter_candidates"),
    message:
        "Filter candidates of {wildcards.run} {wildcards.split}, shard {wildcards.shard}"
    shell:
        "exec python -m workflow_scripts.filter_candidates --settings {params.settings:q}"
        " --code {params.code}"
        " --images {input.images} --candidates {input.candidates}"
        " --confident {output.confident} --label-maps {output.label_maps} > {log} 2>&1"
