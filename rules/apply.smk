# Applying the trained models to new folders of images. Each is a further split, applied/NAME.


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
        settings=settings(
            "candidates",
            "confidence",
            "predictions",
            "crf.enabled",
            "crf.longer_side",
            "crf.iterations",
            "crf.gaussian_weight",
            "crf.gaussian_sigma",
            "crf.bilateral_weight",
            "crf.bilateral_sigma_xy",
            "crf.bilateral_sigma_rgb",
            "crf.min_probability",
            "curation.names",
        ),
        code=RUN.code("describe_use"),
    message:
        "Describe the use of the models of {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "exec python -m workflow_scripts.describe_use --settings {params.settings:q}"
        " --code {params.code} --output {output} > {log} 2>&1"


rule write_applied:
    input:
        images=result_shards("images"),
        confident=result_shards("confident"),
        predictions=result_shards("predictions"),
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
        settings=settings("curation.names"),
        code=RUN.code("write_applied"),
        options=result_options,
    message:
        "Write what was found in {wildcards.split} by {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.write_applied --settings {params.settings:q}"
        " --code {params.code}"
        " --root {ROOT:{wildcards.dataset}/{wildcards.split}u} {params.options}"
        " --label-maps {output.label_maps:q} --overlays {output.overlays:q}"
        " --objects {output.coco:q} --rejected {output.rejected:q} > {log:q} 2>&1"


rule apply:
    input:
        [
            path
            for dataset in config["datasets"]
            for split in RUN.applied
            for path in (
                f"results/{dataset}/{split}/objects.json",
                f"results/{dataset}/seed-{RUN.first_seed(dataset)}/{split}/candidates.json",
            )
        ],
