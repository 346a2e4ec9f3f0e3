# Generated scenes with ground truth, for datasets with `dataset.generate` in their config.


rule make_demo_dataset:
    output:
        "data/{dataset}/complete.json",
    log:
        "logs/{dataset}/make_demo_dataset.log",
    benchmark:
        "benchmarks/{dataset}/make_demo_dataset.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(30),
    params:
        settings=settings("dataset.generate"),
        code=RUN.code("make_demo_dataset"),
    message:
        "Generate scenes for {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.make_demo_dataset --settings {params.settings:q}"
        " --code {params.code}"
        " --output {output} > {log} 2>&1"
