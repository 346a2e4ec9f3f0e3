# A web gallery of each dataset, for `snakemake gallery`. No rule reads it.


def gallery_steps(dataset, split):
    """Step → folder of label maps of a split, of the first seed.

    Initial masks and candidates are painted by the gallery itself.
    """
    seed = RUN.first_seed(dataset)
    if split == RUN.evaluated_split(dataset):
        steps = steps_of(dataset, seed)
        del steps["initial_masks"]
        return steps
    # Of the training images there is what the next stage is trained on.
    base = f"results/{dataset}/seed-{seed}"
    steps = {"mask_rcnn": f"{base}/{split}/label_maps"}
    for number in range(RUN.last_round(dataset)):
        steps[f"{step_in_round('segmentation', number)}_crf"] = (
            f"{base}/round-{number}/{split}/predictions_crf"
        )
    return steps


def gallery_folders(dataset, split):
    """Option → folder of shards of a split."""
    base = f"results/{dataset}"
    seeded = f"{base}/seed-{RUN.first_seed(dataset)}/{split}"
    folders = {f"--{stage}": f"{base}/{split}/{stage}" for stage in ("images", "masks")}
    folders |= {f"--{stage}": f"{seeded}/{stage}" for stage in ("candidates", "confident")}
    if split != "train":
        folders["--assignments"] = f"{seeded}/assignments"
    return folders


def gallery_inputs(wildcards):
    """Everything that the gallery shows."""
    dataset = wildcards.dataset
    files = list(report_assignments(dataset))
    for split in report_splits(dataset):
        folders = [
            *gallery_folders(dataset, split).values(),
            *gallery_steps(dataset, split).values(),
        ]
        for folder in folders:
            files += shards_of(dataset, split, folder)
    if RUN.has_ground_truth(dataset):
        files.append(report_metrics(dataset)[RUN.first_seed(dataset)])
    return files


def gallery_options(wildcards):
    """The command line of the gallery, less what changes no picture."""
    dataset = wildcards.dataset
    options = [f"--assignments train {' '.join(report_assignments(dataset))}"]
    for split in report_splits(dataset):
        options += [
            f"{option} {split} {in_shell(shards_of(dataset, split, folder))}"
            for option, folder in gallery_folders(dataset, split).items()
        ]
        options += [
            f"--step {split} {name} {in_shell(shards_of(dataset, split, folder))}"
            for name, folder in gallery_steps(dataset, split).items()
        ]
    if RUN.has_ground_truth(dataset):
        options.append(f"--metrics {report_metrics(dataset)[RUN.first_seed(dataset)]}")
    return " ".join(options)


rule write_gallery:
    input:
        gallery_inputs,
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
            "dataset.splits.{evaluated}.annotations",
            "clustering.clusters",
            "curation.classes",
            "curation.names",
        ),
        code=RUN.code("write_gallery"),
        options=gallery_options,
    message:
        "Write the gallery of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.write_gallery --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --root {ROOT:{wildcards.dataset}} {params.options}"
        " --workers {threads} --output {output} > {log} 2>&1"


rule gallery:
    input:
        expand("results/{dataset}/gallery", dataset=config["datasets"]),
