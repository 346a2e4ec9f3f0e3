# Results to look at: the report, and label maps as PNG files. No other rule depends on them.
import subprocess


def git_revision():
    """The Git revision of the workflow, which ends in `-dirty` if files differ from it."""
    result = subprocess.run(
        ["git", "-C", str(HOME), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    return result.stdout.strip() or "unknown"


REVISION = git_revision()
PAPER = shlex.quote(str(HOME / "resources" / "paper_tables.json"))  # in shell commands


def report_splits(dataset):
    """The splits that have candidates: the training images and the evaluated images."""
    return list(dict.fromkeys(["train", RUN.evaluated_split(dataset)]))


def health_files(dataset):
    """Options of check_health with their files, which the report reads too."""
    base, seed = f"results/{dataset}", RUN.first_seed(dataset)
    options = [
        (f"--{stage} {split}", shards_of(dataset, split, f"{folder}/{split}/{stage}"))
        for stage, folder in (
            ("images", base),
            ("masks", base),
            ("candidates", f"{base}/seed-{seed}"),
        )
        for split in report_splits(dataset)
    ]
    options.append(("--assignments", train_assignments(dataset)))
    for training, history in report_histories(dataset).items():
        options.append((f"--history {training}", [history]))
    return options


def report_files(dataset):
    """Options of the report with their files: everything that it shows."""
    base, seed = f"results/{dataset}", RUN.first_seed(dataset)
    options = [
        ("--health", [f"{base}/health.json"]),
        *health_files(dataset),
        *step_options(dataset, steps_of(dataset, seed)),
    ]
    for split in report_splits(dataset):
        files = shards_of(dataset, split, f"{base}/seed-{seed}/{split}/confident")
        options.append((f"--confident {split}", files))
    if RUN.has_ground_truth(dataset):
        for each in RUN.seeds(dataset):
            options.append((f"--metrics {each}", [f"{base}/seed-{each}/metrics.json"]))
        options.append(("--summary", [f"{base}/metrics.json"]))
    return options


def train_assignments(dataset):
    """The file of the first seed's clusters of the training masks."""
    return [f"results/{dataset}/seed-{RUN.first_seed(dataset)}/clusters/assignments.parquet"]


def report_histories(dataset):
    """Training → loss history of the first seed."""
    base = f"results/{dataset}/seed-{RUN.first_seed(dataset)}"
    trainings = ["segmentation"] + ["linear_probe"] * RUN.has_linear_probe(dataset)
    detector = {"mask_rcnn": f"{base}/mask_rcnn/history.csv"} if RUN.has_mask_rcnn(dataset) else {}
    return detector | {
        step_in_round(training, number): f"{base}/round-{number}/{training}/history.csv"
        for training in trainings
        for number in RUN.rounds(dataset)
    }


def result_shards(stage):
    """An input function: all shards in one of the folders of `Run.results`.

    The split is that of the job's wildcards, or the evaluated split if they have none.
    """

    def paths(wildcards):
        dataset = wildcards.dataset
        split = wildcards.get("split", RUN.evaluated_split(dataset))
        return shards_of(dataset, split, RUN.results(dataset, split)[stage])

    return paths


def result_options(wildcards, input):
    """Command-line options with the shards that are the input of a job."""
    stages = ("images", "confident", "predictions")
    return option_text([(f"--{stage}", input.get(stage)) for stage in stages])


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
        " --shards {ALL:{input}u}"
        " --output {output} > {log} 2>&1"


rule check_health:
    input:
        lambda wildcards: files_of(health_files(wildcards.dataset)),
    output:
        "results/{dataset}/health.json",
    log:
        "logs/{dataset}/health.log",
    benchmark:
        "benchmarks/{dataset}/health.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(4000),
        runtime=attempts(30),
    params:
        settings=settings(
            "clustering.clusters",
            "confidence.threshold",
            "mask_rcnn.enabled",
            "mask_rcnn.weights",
            "segmentation.model",
            "segmentation.weights",
            merged=False,
        ),
        code=RUN.code("check_health"),
        options=lambda wildcards: option_text(health_files(wildcards.dataset)),
    message:
        "Check the health of the run of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.check_health --settings {params.settings:q}"
        " --code {params.code} {params.options} --output {output} > {log} 2>&1"


rule report:
    input:
        lambda wildcards: files_of(report_files(wildcards.dataset)),
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
        options=lambda wildcards: option_text(report_files(wildcards.dataset)),
    message:
        "Write the report of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.report --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --root {ROOT:{wildcards.dataset}u}"
        " --split {EVALUATED_SPLIT:{wildcards.dataset}u} {params.options}"
        " --benchmarks benchmarks/{wildcards.dataset} --paper-tables {PAPER}"
        " --git-revision {REVISION} --output {output} > {log} 2>&1"
