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
    return list(dict.fromkeys(["train", evaluated_split(CONFIGS[dataset])]))


def report_inputs(wildcards):
    """Everything that the report shows."""
    dataset = wildcards.dataset
    base, seed = f"results/{dataset}", first_seed(dataset)
    folders = [
        (f"{base}/{split}/{stage}", split)
        for split in report_splits(dataset)
        for stage in ("images", "masks")
    ] + [
        (f"{base}/seed-{seed}/{split}/{stage}", split)
        for split in report_splits(dataset)
        for stage in ("candidates", "confident")
    ]
    files = [
        path
        for folder, split in folders
        for path in shards_of(dataset, f"{folder}/{{shard}}.parquet", split)
    ]
    files += step_shards(dataset, steps_of(dataset, seed))
    files += report_assignments(dataset)
    files += report_histories(dataset).values()
    if has_ground_truth(dataset):
        files += report_metrics(dataset).values()
        files.append(f"{base}/metrics.json")
    return files


def report_assignments(dataset):
    """Clusters of the masks that the contact sheets show: those of the training images."""
    return [f"results/{dataset}/seed-{first_seed(dataset)}/clusters/assignments.parquet"]


def report_histories(dataset):
    """Training → loss history, of the first seed."""
    base = f"results/{dataset}/seed-{first_seed(dataset)}"
    histories = {"mask_rcnn": f"{base}/mask_rcnn/history.csv"} | {
        step_in_round("segmentation", number): f"{base}/round-{number}/segmentation/history.csv"
        for number in range(last_round(dataset) + 1)
    }
    if has_linear_probe(dataset):
        histories |= {
            step_in_round("linear_probe", number): f"{base}/round-{number}/linear_probe/history.csv"
            for number in range(last_round(dataset) + 1)
        }
    return histories


def report_metrics(dataset):
    """Seed → its metrics."""
    return {
        seed: f"results/{dataset}/seed-{seed}/metrics.json" for seed in CONFIGS[dataset]["seeds"]
    }


def report_options(wildcards):
    """The command line of the report, less what changes no picture and no number."""
    dataset = wildcards.dataset
    base, seed = f"results/{dataset}", first_seed(dataset)
    options = [
        f"--split {evaluated_split(CONFIGS[dataset])}",
        options_of_steps(dataset, steps_of(dataset, seed)),
    ]
    for split in report_splits(dataset):
        shards = SHARDS[f"{dataset}/{split}"]
        options += [
            f"--images {split} {base}/{split}/images/{shards}.parquet",
            f"--masks {split} {base}/{split}/masks/{shards}.parquet",
            f"--candidates {split} {base}/seed-{seed}/{split}/candidates/{shards}.parquet",
            f"--confident {split} {base}/seed-{seed}/{split}/confident/{shards}.parquet",
        ]
    options += [f"--assignments {' '.join(report_assignments(dataset))}"]
    options += [f"--history {name} {path}" for name, path in report_histories(dataset).items()]
    if has_ground_truth(dataset):
        options += [f"--metrics {seed} {path}" for seed, path in report_metrics(dataset).items()]
        options += [f"--summary {base}/metrics.json"]
    return " ".join(options)


def unpacked_shards(wildcards):
    """Folder of the label maps that are unpacked: of the first seed and the evaluated split."""
    dataset, split = wildcards.dataset, evaluated_split(CONFIGS[wildcards.dataset])
    base = f"results/{dataset}/seed-{first_seed(dataset)}"
    if wildcards.kind == "label_maps":
        return f"{base}/{split}/label_maps"
    return f"{base}/round-{last_round(dataset)}/{split}/{final_predictions(dataset)}"


rule unpack_label_maps:
    input:
        lambda wildcards: step_shards(
            wildcards.dataset, {wildcards.kind: unpacked_shards(wildcards)}
        ),
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
        settings=settings_of("unpack_label_maps"),
        code=code_of("unpack_label_maps"),
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
        settings=lambda wildcards: canonical_json(
            report_settings(CONFIGS[wildcards.dataset], names_of(wildcards))
        ),
        code=code_of("report"),
        options=report_options,
    message:
        "Write the report of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.report --settings {params.settings:q}"
        " --code {params.code}"
        " --dataset {wildcards.dataset} --root {ROOTS:{wildcards.dataset}} {params.options}"
        " --benchmarks benchmarks/{wildcards.dataset} --paper-tables {PAPER}"
        " --git-revision {REVISION} --output {output} > {log} 2>&1"
