# What people look at: the report, and label maps as files. No rule reads these.
import subprocess


def git_revision():
    """The revision of the workflow, with a mark where files differ from it."""
    result = subprocess.run(
        ["git", "-C", str(HOME), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    return result.stdout.strip() or "unknown"


REVISION = git_revision()
PAPER = shlex.quote(str(HOME / "resources" / "paper_tables.json"))  # in shell commands


def report_splits(dataset):
    """The splits that candidates exist of: the training images, and the evaluated ones."""
    return list(dict.fromkeys(["train", RUN.evaluated_split(dataset)]))


def report_folders(dataset):
    """Folders of the shards that the report shows of each split, with the split."""
    base, seed = f"results/{dataset}", RUN.first_seed(dataset)
    return [
        (f"{folder}/{split}/{stage}", split)
        for split in report_splits(dataset)
        for folder, stage in (
            (base, "images"),
            (base, "masks"),
            (f"{base}/seed-{seed}", "candidates"),
            (f"{base}/seed-{seed}", "confident"),
        )
    ]


def report_inputs(wildcards):
    """Everything that the report shows."""
    dataset = wildcards.dataset
    base, seed = f"results/{dataset}", RUN.first_seed(dataset)
    files = [
        path
        for folder, split in report_folders(dataset)
        for path in shards_of(dataset, split, folder)
    ]
    files += step_shards(dataset, steps_of(dataset, seed))
    files += report_assignments(dataset)
    files += report_histories(dataset).values()
    if RUN.has_ground_truth(dataset):
        files += report_metrics(dataset).values()
        files.append(f"{base}/metrics.json")
    return files


def report_assignments(dataset):
    """Clusters of the masks that the contact sheets show: those of the training images."""
    return [f"results/{dataset}/seed-{RUN.first_seed(dataset)}/clusters/assignments.parquet"]


def report_histories(dataset):
    """Training → loss history, of the first seed."""
    base = f"results/{dataset}/seed-{RUN.first_seed(dataset)}"
    histories = {"mask_rcnn": f"{base}/mask_rcnn/history.csv"} | {
        step_in_round("segmentation", number): f"{base}/round-{number}/segmentation/history.csv"
        for number in RUN.rounds(dataset)
    }
    if RUN.has_linear_probe(dataset):
        histories |= {
            step_in_round("linear_probe", number): f"{base}/round-{number}/linear_probe/history.csv"
            for number in RUN.rounds(dataset)
        }
    return histories


def report_metrics(dataset):
    """Seed → its metrics."""
    return {seed: f"results/{dataset}/seed-{seed}/metrics.json" for seed in RUN.seeds(dataset)}


def report_options(wildcards):
    """The command line of the report, less what changes no picture and no number."""
    dataset = wildcards.dataset
    base, seed = f"results/{dataset}", RUN.first_seed(dataset)
    options = [
        f"--split {RUN.evaluated_split(dataset)}",
        options_of_steps(dataset, steps_of(dataset, seed)),
    ]
    options += [
        f"--{os.path.basename(folder)} {split} {in_shell(shards_of(dataset, split, folder))}"
        for folder, split in report_folders(dataset)
    ]
    options += [f"--assignments {' '.join(report_assignments(dataset))}"]
    options += [f"--history {name} {path}" for name, path in report_histories(dataset).items()]
    if RUN.has_ground_truth(dataset):
        options += [f"--metrics {seed} {path}" for seed, path in report_metrics(dataset).items()]
        options += [f"--summary {base}/metrics.json"]
    return " ".join(options)


def result_shards(stage):
    """An input function: all shards of a stage of `Run.results`, of the evaluated split if no other."""

    def paths(wildcards):
        dataset = wildcards.dataset
        split = wildcards.get("split", RUN.evaluated_split(dataset))
        return shards_of(dataset, split, RUN.results(dataset, split)[stage])

    return paths


def result_options(wildcards, input):
    """The same on the command line."""
    stages = ("images", "confident", "predictions")
    return " ".join(f"--{stage} {in_shell(input.get(stage))}" for stage in stages)


rule unpack_label_maps:
    input:
        lambda wildcards: result_shards(wildcards.kind)(wildcards),
    output:
        directory("results/{dataset}/{kind,label_maps|predictions}"),
    log:
        "logs/{dataset}/unpacked_{kind}.log",
    benchmark:
        "benchmarks/{dataset}/unpacked_{kind}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(2000),
        runtime=attempts(60),
    params:
        settings=settings("curation.names"),
        code=RUN.code("unpack_label_maps"),
    message:
        "Unpack {wildcards.kind} of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.unpack_label_maps --settings {params.settings:q}"
        " --code {params.code}"
        " --shards {ALL:{input}}"
        " --output {output} > {log} 2>&1"


rule report:
    input:
        report_inputs,
    output:
        report(
            "results/{dataset}/report.html",
            caption="captions/report.rst",
            category="Reports",
            labels={"dataset": "{dataset}"},
        ),
    log:
        "logs/{dataset}/report.log",
    benchmark:
        "benchmarks/{dataset}/report.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(60),
    params:
        settings=settings(
            "*",
            without=(
                "exports",
                "evaluation.ablations",
                "images.max_rejected",
                "images.max_rejected_count",
                "dataset.root",
                "dataset.generate",
                "dataset.download",
            ),
            merged=False,
        ),
        code=RUN.code("report"),
        options=report_options,
    message:
        "Write the report of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.report --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --root {ROOT:{wildcards.dataset}} {params.options}"
        " --benchmarks benchmarks/{wildcards.dataset} --paper-tables {PAPER}"
        " --git-revision {REVISION} --output {output} > {log} 2>&1"
