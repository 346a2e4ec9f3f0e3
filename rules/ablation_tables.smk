# The paper's tables and figures. `snakemake ablations` makes all of them and a page that shows
# them; `snakemake table_1`, for instance, makes one of them.
from workflow_scripts.maskdistill.runs.variants import ITEMS, OF_OBJECTS, SWEEPS, sweep


wildcard_constraints:
    item=one_of(ITEMS),


def left_out(dataset):
    """The tables and figures that need labels of single objects, if a dataset has none."""
    return [] if RUN.has_objects(dataset) else list(OF_OBJECTS)


def items_in_report(kind, items):
    """An input function: files of these tables and figures, but for those that are left out."""
    return lambda wildcards: [
        f"results/{wildcards.dataset}/ablations/{item}.{kind}"
        for item in items
        if item not in left_out(wildcards.dataset)
    ]


def ablation_seeds(dataset):
    """Seeds of the ablations; the stages of the main run are computed for all of them, too."""
    return CONFIGS[dataset]["evaluation"]["ablations"]["seeds"] or RUN.seeds(dataset)


def ablation_files(wildcards):
    """Options with their files: the scores of all variants and seeds in a table or figure."""
    dataset, item = wildcards.dataset, wildcards.item
    swept = list(sweep(item, CONFIGS[dataset]).values()) if item in SWEEPS else []
    wanted = {
        "table_1": {"metrics": ["all_pixels"]},
        "table_s1": {"metrics": ["boxes"]},
        "table_2": {"linear_probe": [MAIN]},
        "table_s2": {"linear_probe": [MAIN]},
        "table_3": {"instances": [MAIN, *BASELINES]},
        "figure_3": {"instances": swept},
        "figure_4": {"instances": swept},
        "figure_5": {"metrics": swept},
    }[item]
    return [
        (
            f"--{kind.replace('_', '-')} {variant}",
            [
                f"results/{run_name(dataset, variant)}/seed-{seed}/{kind}.json"
                for seed in ablation_seeds(dataset)
            ],
        )
        for kind, names in {"metrics": [], **wanted}.items()
        for variant in dict.fromkeys([MAIN] * (kind == "metrics") + names)
    ]


def ablation_options(wildcards, output):
    """Options for the inputs, compared values and outputs of a table or figure."""
    dataset, item = wildcards.dataset, wildcards.item
    swept = sweep(item, CONFIGS[dataset]) if item in SWEEPS else {}
    options = [
        f"--seeds {' '.join(map(str, ablation_seeds(dataset)))}",
        option_text(ablation_files(wildcards)),
        option_text([(f"--{kind.replace('_', '-')}", [path]) for kind, path in output.items()]),
        *(f"--sweep {value} {name}" for value, name in swept.items()),
    ]
    return " ".join(options)


def ablation_output(name):
    """An output file of a table or figure, which `snakemake --report` shows."""
    kind = name.rpartition(".")[2] + (", overclustering" if "overclustering" in name else "")
    return report(
        f"results/{{dataset}}/ablations/{name}",
        caption="captions/ablations.rst",
        category="Ablations",
        # Labels must differ: of several files with the same labels, Snakemake shows only one.
        labels={"dataset": "{dataset}", "what": "{item}", "file": kind},
    )


rule tabulate_ablation:
    input:
        lambda wildcards: files_of(ablation_files(wildcards)),
    output:
        json="results/{dataset}/ablations/{item,table_s?[0-9]}.json",
        csv=ablation_output("{item,table_s?[0-9]}.csv"),
    log:
        "logs/{dataset}/ablations/{item}.log",
    benchmark:
        "benchmarks/{dataset}/ablations/{item}.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        settings=settings(
            "dataset.adapter",
            "features.backbone",
            "features.weights",
            "embedding.backbone",
            "mask_rcnn.enabled",
            "mask_rcnn.weights",
            "segmentation.model",
            "segmentation.weights",
            "clustering.clusters",
        ),
        code=RUN.code("tabulate_ablation"),
        options=ablation_options,
    message:
        "Tabulate {wildcards.item} of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.tabulate_ablation --settings {params.settings:q}"
        " --code {params.code}"
        " --item {wildcards.item} {params.options}"
        " --paper-tables {PAPER} > {log} 2>&1"


# For a figure, the program also writes charts, and a second table for numbers of clusters above the
# number of classes.
use rule tabulate_ablation as draw_ablation with:
    output:
        json="results/{dataset}/ablations/{item,figure_[0-9]}.json",
        csv=ablation_output("{item,figure_[0-9]}.csv"),
        overclustering_csv=ablation_output("{item,figure_[0-9]}_overclustering.csv"),
        svg=ablation_output("{item,figure_[0-9]}.svg"),


rule report_ablations:
    input:
        tables=items_in_report("json", ITEMS),
        figures=items_in_report("svg", SWEEPS),
    output:
        report(
            "results/{dataset}/ablations/report.html",
            caption="captions/ablations_report.rst",
            category="Reports",
            labels={"dataset": "{dataset}, ablations"},
        ),
    log:
        "logs/{dataset}/ablations/report.log",
    benchmark:
        "benchmarks/{dataset}/ablations/report.tsv"
    conda:
        "../envs/maskdistill.yaml"
    threads: 1
    resources:
        mem_mb=attempts(1000),
        runtime=attempts(30),
    params:
        code=RUN.code("report_ablations"),
        left_out=lambda wildcards: left_out(wildcards.dataset),
    message:
        "Write the report of the ablations of {wildcards.dataset}"
    shell:
        "exec python -m workflow_scripts.report_ablations --code {params.code}"
        " --dataset {wildcards.dataset}"
        " --items {input.tables} --figures {input.figures} --left-out {params.left_out}"
        " --output {output} > {log} 2>&1"


SCORED = [name for name in config["datasets"] if RUN.has_ground_truth(name)]


rule ablations:
    input:
        expand("results/{dataset}/ablations/report.html", dataset=SCORED),


def of_all_datasets(item):
    """An input function: a table or figure of every dataset; a line says where it is left out."""

    def paths(wildcards):
        for dataset in SCORED:
            if item in left_out(dataset):
                logger.warning(
                    f"{dataset}: {item} is left out, because the labels of this dataset do not "
                    "tell single objects apart (evaluation.objects: false)"
                )
        return [
            f"results/{dataset}/ablations/{item}.json"
            for dataset in SCORED
            if item not in left_out(dataset)
        ]

    return paths


for wanted in ITEMS:

    # One target for each table and figure, for instance `snakemake table_1`.
    rule:
        name:
            wanted
        input:
            of_all_datasets(wanted),
