"""Ablations of a finished run write the right tables, and do not change the run's own files."""

import csv
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.rules.conftest import Workflow, logs
from workflow_scripts.maskdistill.runs.variants import ITEMS
from workflow_scripts.maskdistill.settings.layers import merge

pytestmark = [pytest.mark.workflow, pytest.mark.ablations]
ABLATIONS = {
    "seeds": [0],
    # Each list has the run's own value and one other value.
    "top_k": [0.2, 0.3],
    "clusters": [6, 9],
    "threshold": [0.25, 0.5],
    "lost_patches": 20,
}
# With train_mask_rcnn, these variants have their own Mask R-CNN.
TRAINED = ("clusters-9", "top_k-0.3")
# Setting that a variant changes → steps that are scored for it when models are trained.
STEPS_OF_TRAINED = {
    "clusters": ["initial_masks", "mask_rcnn"],
    "top_k": ["initial_masks", "mask_rcnn"],
    "threshold": ["mask_rcnn", "segmentation"],
}
# Jobs for a new number of clusters, with two shards of `train` and one of `val`.
CLUSTERS = {
    "cluster_masks": 1,
    "assign_masks": 1,
    "paint_masks": 1,
    "evaluate": 1,
    "evaluate_instances": 1,
    "draw_ablation": 1,
    "report_ablations": 1,
    "ablations": 1,
}
# Jobs for other masks, without the jobs that make these masks.
MASKS = {**CLUSTERS, "embed_masks": 3}


def copy_of(finished: Workflow, directory: Path, **ablations) -> Workflow:
    shutil.copytree(finished.directory, directory, dirs_exist_ok=True)
    change = {"evaluation": {"ablations": {**ABLATIONS, **ablations}}}
    return Workflow(directory, finished.datasets, merge(finished.overrides, change))


def contents(directory: Path) -> dict[Path, tuple[int, bytes]]:
    """Modification time and content of every file of the run, without its ablations."""
    base = directory / "results" / "demo"
    return {
        path.relative_to(base): (path.stat().st_mtime_ns, path.read_bytes())
        for path in base.rglob("*")
        if path.is_file() and "ablations" not in path.parts
    }


@pytest.fixture(scope="module")
def ablated(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A copy of the finished run, after `snakemake ablations`."""
    workflow = copy_of(finished, tmp_path_factory.mktemp("ablations"))
    before = contents(workflow.directory)
    done = workflow.snakemake("ablations")
    assert done.returncode == 0, done.stdout[-6000:] + logs(workflow.directory)
    assert contents(workflow.directory) == before
    return workflow


def change(workflow: Workflow, ablations: dict) -> dict:
    return merge(workflow.overrides, {"evaluation": {"ablations": ablations}})


def table(workflow: Workflow, name: str) -> list[dict]:
    with open(workflow.directory / "results/demo/ablations" / name, newline="") as file:
        return list(csv.DictReader(file))


def test_nothing_is_stale_after_the_ablations(ablated: Workflow) -> None:
    assert ablated.stale("ablations") == {}
    assert ablated.stale("all") == {}


def test_every_item_is_written(ablated: Workflow) -> None:
    base = ablated.directory / "results/demo/ablations"
    for item in ITEMS:
        content = json.loads((base / f"{item}.json").read_text())
        assert content["tables"], item
        assert content["obstacles"], item  # the demo is not the paper's experiment
        assert table(ablated, f"{item}.csv"), item
    for item in ("figure_3", "figure_4", "figure_5"):
        ElementTree.parse(base / f"{item}.svg")
    report = (base / "report.html").read_text()
    assert all(f'id="{item}"' in report for item in ITEMS)


def test_snakemakes_own_report_shows_them(ablated: Workflow) -> None:
    done = ablated.snakemake("ablations", "--report", "overview.html")
    assert done.returncode == 0, done.stdout[-3000:]
    text = (ablated.directory / "overview.html").read_text()
    for shown in ("Ablations", "table_s1", "figure_4", "baselines DINO-seg and LOST"):
        assert shown in text, shown
    assert '"csv, overclustering"' in text


def test_the_rows_of_the_run_itself_are_its_numbers(ablated: Workflow) -> None:
    metrics = json.loads((ablated.directory / "results/demo/seed-0/metrics.json").read_text())
    rows = {row["row"]: float(row["mean"]) for row in table(ablated, "table_1.csv")}
    for step in ("initial_masks", "mask_rcnn", "segmentation"):
        assert rows[step] == metrics["steps"][step]["miou"]
    (own,) = [row for row in table(ablated, "figure_5.csv") if row["row"] == "0.25"]
    assert float(own["mean"]) == metrics["steps"]["mask_rcnn"]["miou"]


def test_baselines_stand_in_every_setting_of_table_3(ablated: Workflow) -> None:
    rows = table(ablated, "table_3.csv")
    assert len(rows) == 4 * 4 * 3
    assert {row["row"] for row in rows} == {"dino", "lost", "initial_masks", "mask_rcnn"}


def test_overclustering_is_kept_apart(ablated: Workflow) -> None:
    assert {row["row"] for row in table(ablated, "figure_3.csv")} == {"6"}
    apart = table(ablated, "figure_3_overclustering.csv")
    assert {(row["row"], row["matching"]) for row in apart} == {("9", "majority")}


def test_boxes_are_no_masks(ablated: Workflow) -> None:
    rows = {row["row"]: row for row in table(ablated, "table_s1.csv")}
    assert rows["mask_rcnn_boxes"]["mean"] != rows["mask_rcnn_boxes_grabcut"]["mean"]
    assert rows["mask_rcnn_boxes"]["mean"] != rows["mask_rcnn_masks"]["mean"]


@pytest.mark.parametrize(
    ("ablations", "expected"),
    [
        ({"clusters": [6, 9, 12]}, CLUSTERS),
        ({"clusters": [6]}, {"draw_ablation": 1, "report_ablations": 1, "ablations": 1}),
        ({"top_k": [0.1, 0.2, 0.3]}, {**MASKS, "make_masks": 3}),
        (
            {"threshold": [0.25, 0.5, 0.75]},
            {
                "filter_candidates": 1,
                "evaluate": 1,
                "draw_ablation": 1,
                "report_ablations": 1,
                "ablations": 1,
            },
        ),
    ],
    ids=str,
)
def test_a_changed_list_runs_what_is_new(
    ablated: Workflow, ablations: dict, expected: dict
) -> None:
    overrides = change(ablated, ablations)
    assert ablated.stale("ablations", overrides=overrides) == expected
    assert ablated.stale("all", overrides=overrides) == {}


def test_a_setting_of_lost_concerns_lost_alone(ablated: Workflow) -> None:
    expected = {**MASKS, "find_baseline_masks": 3, "tabulate_ablation": 1}
    del expected["draw_ablation"]
    overrides = change(ablated, {"lost_patches": 21})
    assert ablated.stale("ablations", overrides=overrides) == expected


def test_one_item_is_a_target(finished: Workflow, tmp_path: Path) -> None:
    workflow = copy_of(finished, tmp_path)
    assert workflow.stale("table_1") == {
        "train_segmentation": 1,
        "predict_segmentation": 1,
        "evaluate": 1,
        "tabulate_ablation": 1,
        "table_1": 1,
    }
    assert workflow.stale("table_2") == {"tabulate_ablation": 1, "table_2": 1}


def test_models_are_trained_for_every_value_where_asked(finished: Workflow, tmp_path: Path) -> None:
    """On request, a model is trained for each value of a figure, as the paper may have done."""
    workflow = copy_of(finished, tmp_path, train_mask_rcnn=True, train_segmentation=True)
    before = contents(workflow.directory)
    figures = ("figure_3", "figure_4", "figure_5")
    planned = {figure: workflow.stale(figure) for figure in figures}
    for figure in ("figure_3", "figure_4"):
        assert planned[figure]["train_mask_rcnn"] == 1
        assert "train_segmentation" not in planned[figure]
    assert planned["figure_5"]["train_segmentation"] == 1
    assert "train_mask_rcnn" not in planned["figure_5"]

    done = workflow.snakemake(*figures)
    assert done.returncode == 0, done.stdout[-6000:] + logs(workflow.directory)
    assert contents(workflow.directory) == before
    assert workflow.stale(*figures) == {}
    base = workflow.directory / "results/demo"
    models = [base / "seed-0/mask_rcnn/model.pt"]
    models += [base / f"ablations/{name}/seed-0/mask_rcnn/model.pt" for name in TRAINED]
    assert len({path.read_bytes() for path in models}) == 3
    titles = {
        figure: {row["table"] for row in table(workflow, f"{figure}.csv")} for figure in figures
    }
    assert "Mask R-CNN: class-aware mask AP" in titles["figure_3"] & titles["figure_4"]
    assert titles["figure_5"] == {"Mask R-CNN: mIoU", "Segmentation: mIoU"}
    rows = [
        row for row in table(workflow, "figure_4.csv") if row["table"].startswith("Mask R-CNN: cl")
    ]
    assert {row["row"] for row in rows} == {"0.2", "0.3"}
    for name in (*TRAINED, "threshold-0.5"):
        metrics = json.loads((base / f"ablations/{name}/seed-0/metrics.json").read_text())
        assert list(metrics["steps"]) == STEPS_OF_TRAINED[name.partition("-")[0]]


def test_merged_clusters_hold_for_variants_that_share_them(
    finished: Workflow, tmp_path: Path
) -> None:
    workflow = copy_of(finished, tmp_path)
    path = tmp_path / "config" / "names" / "demo.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"seeds": {0: {"clusters": {2: "bird", 4: "bird"}}}}))
    done = workflow.snakemake("table_1", "figure_3", "--dry-run", "--printshellcmds")
    found = re.findall(r"evaluate --settings '(.*?)' .*--output \S*/ablations/(\S+?)/", done.stdout)
    clusters = {variant: json.loads(text)["clustering"]["clusters"] for text, variant in found}
    assert clusters == {"all_pixels": 5, "clusters-9": 9}


def test_more_seeds_run_the_stages_of_the_seed(finished: Workflow, tmp_path: Path) -> None:
    workflow = copy_of(finished, tmp_path, seeds=[0, 1])
    jobs = workflow.stale("table_1")
    # Four DeepLab-v3: two rounds of the new seed, and the variant `all_pixels` of both seeds.
    assert (jobs["train_mask_rcnn"], jobs["train_segmentation"]) == (1, 4)
    assert "extract_features" not in jobs
    assert workflow.stale("all") == {}
