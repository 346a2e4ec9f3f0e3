# A web gallery of each dataset, made by `snakemake gallery`.


def gallery_steps(dataset, split):
    """Step → folder of the first seed's label maps of a split.

    Initial masks and candidates are painted by the gallery itself.
    """
    seed = RUN.first_seed(dataset)
    if split == RUN.evaluated_split(dataset):
        steps = steps_of(dataset, seed)
        del steps["initial_masks"]
        return steps
    # Training images only have the label maps that a segmentation model is trained on.
    base = f"results/{dataset}/seed-{seed}"
    steps = {confident_step(dataset): f"{base}/{split}/label_maps"}
    for number in range(RUN.last_round(dataset)):
        steps[f"{step_in_round('segmentation', number)}_crf"] = (
            f"{base}/round-{number}/{split}/predictions_crf"
        )
    return steps


def gallery_folders(dataset, split):
    """Option → folder of shards of a split."""
    base = f"results/{dataset}"
    seeded = f"{base}/seed-{RUN.first_seed(dataset)}/{split}"
    folders = {f"--{stage} {split}": f"{base}/{split}/{stage}" for stage in ("images", "masks")}
    folders |= {f"--{stage} {split}": f"{seeded}/{stage}" for stage in ("candidates", "confident")}
    if split != "train":
        folders[f"--assignments {split}"] = f"{seeded}/assignments"
    steps = gallery_steps(dataset, split).items()
    return folders | {f"--step {split} {name}": folder for name, folder in steps}


def gallery_files(dataset):
    """Options of the gallery with their files: everything that it shows."""
    options = [
        ("--assignments train", train_assignments(dataset)),
        ("--map", [f"results/{dataset}/mask_map.parquet"]),
    ]
    for split in report_splits(dataset):
        for option, folder in gallery_folders(dataset, split).items():
            options.append((option, shards_of(dataset, split, folder)))
    if RUN.has_ground_truth(dataset):
        metrics = f"results/{dataset}/seed-{RUN.first_seed(dataset)}/metrics.json"
        options.append(("--metrics", [metrics]))
    return options


def map_files(dataset):
    """The option of map_masks with its files: the embeddings of all splits in the gallery."""
    base = f"results/{dataset}"
    return [
        ("--embeddings", shards_of(dataset, split, f"{base}/{split}/mask_embeddings"))
        for split in report_splits(dataset)
    ]


rule map_masks:
    input:
        lambda wildcards: files_of(map_files(wildcards.dataset)),
    output:
        "results/{dataset}/mask_map.parquet",
    log:
        "logs/{dataset}/mask_map.log",
    benchmark:
        "benchmarks/{dataset}/mask_map.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=settings("clustering.metric", "clustering.standardize", "seeds"),
        code=RUN.code("map_masks"),
        options=lambda wildcards: option_text(map_files(wildcards.dataset)),
    message:
        "Map the masks of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.map_masks --settings {params.settings:q}"
        " --code {params.code} {params.options} --output {output} > {log} 2>&1"


rule write_gallery:
    input:
        lambda wildcards: files_of(gallery_files(wildcards.dataset)),
    output:
        directory("results/{dataset}/gallery"),
    log:
        "logs/{dataset}/gallery.log",
    benchmark:
        "benchmarks/{dataset}/gallery.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: RUNTIME["threads"]
    resources:
        mem_mb=attempts(8000),
        runtime=attempts(240),
    params:
        settings=settings(
            "dataset.adapter",
            "dataset.classes",
            "dataset.ground_truth",
            "dataset.label_orientation",
            "dataset.splits.{evaluated}.annotations",
            "clustering.clusters",
            "curation.classes",
            "curation.names",
        ),
        code=RUN.code("write_gallery"),
        options=lambda wildcards: option_text(gallery_files(wildcards.dataset)),
    message:
        "Write the gallery of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.write_gallery --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --root {ROOT:{wildcards.dataset}u} {params.options}"
        " --workers {threads} --output {output} > {log} 2>&1"


rule gallery:
    input:
        expand("results/{dataset}/gallery", dataset=config["datasets"]),
