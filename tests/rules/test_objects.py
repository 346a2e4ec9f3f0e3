"""The workflow on label maps of classes without masks of single objects."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.rules.conftest import SMALL, Workflow, logs, write_backbone
from workflow_scripts.maskdistill.demo import scenes
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.variants import ITEMS, OF_OBJECTS, SWEEPS
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

pytestmark = pytest.mark.workflow

WITHOUT_OBJECTS = {"evaluation": {"objects": False}}


def own_labels(tmp_path: Path, **splits: str) -> Workflow:
    """A dataset of the user in the layout of VOC, with label maps of classes and of objects."""
    scenes.write_voc_tree(tmp_path / "voc", train=3, val=2, seed=3)
    demo = read_yaml(REPOSITORY / "config/datasets/demo.yaml")["dataset"]
    dataset = {
        "root": "voc",
        "adapter": "voc",
        "splits": {"train": "train", "val": "val", **splits},
        "ground_truth": True,
        "classes": demo["classes"],
    }
    (tmp_path / "config/datasets").mkdir(parents=True)
    (tmp_path / "config/datasets/mine.yaml").write_text(yaml.safe_dump({"dataset": dataset}))
    write_backbone(tmp_path / "backbone.pth")
    return Workflow(tmp_path, ["mine"], SMALL)


def names(tmp_path: Path, split: str) -> list[str]:
    return (tmp_path / f"voc/ImageSets/Segmentation/{split}.txt").read_text().split()


def test_no_job_scores_objects_if_there_are_none(tmp_path: Path) -> None:
    run = own_labels(tmp_path, instances="train")
    with_objects = run.stale("all")
    assert with_objects["evaluate_instances"] == 1
    shutil.rmtree(tmp_path / "voc/SegmentationObject")
    overrides = merge(SMALL, WITHOUT_OBJECTS)
    jobs = run.stale("all", overrides=overrides)
    assert "evaluate_instances" not in jobs
    assert (jobs["evaluate"], jobs["summarize"], jobs["report"]) == (1, 1, 1)
    # Neither are masks made of a split whose objects would be scored.
    assert with_objects["make_masks"] - jobs["make_masks"] == SMALL["shards"]

    jobs = run.stale("ablations", overrides=overrides)
    assert "evaluate_instances" not in jobs
    kept = set(ITEMS) - set(OF_OBJECTS)
    assert jobs["draw_ablation"] == len(kept & set(SWEEPS))
    assert jobs["tabulate_ablation"] == len(kept - set(SWEEPS))
    plan = run.plan("table_3", overrides=overrides)
    assert "mine: table_3 is left out, because the labels of this dataset do not tell" in plan
    assert run.stale("table_3", overrides=overrides) == {"table_3": 1}


def test_a_report_without_scores_of_objects(finished: Workflow, tmp_path: Path) -> None:
    shutil.copytree(finished.directory, tmp_path, dirs_exist_ok=True)
    run = Workflow(tmp_path, finished.datasets, merge(finished.overrides, WITHOUT_OBJECTS))
    base = tmp_path / "results/demo"
    (base / "seed-0/instances.json").unlink()
    done = run.snakemake("all")
    assert done.returncode == 0, done.stdout[-3000:] + logs(tmp_path)
    assert run.stale("all") == {}
    assert not (base / "seed-0/instances.json").exists()
    assert "instances" not in json.loads((base / "metrics.json").read_text())
    assert (
        "Mask AP, coverage and calibration were not measured" in (base / "report.html").read_text()
    )


@pytest.mark.parametrize(
    ("folder", "split", "setting"),
    [
        ("SegmentationObject", "val", "evaluation.objects"),
        ("SegmentationClass", "val", "dataset.ground_truth"),
        ("SegmentationClass", "train", "evaluation.linear_probe.enabled"),
    ],
)
def test_missing_label_maps_are_one_line_before_any_job(
    tmp_path: Path, folder: str, split: str, setting: str
) -> None:
    run = own_labels(tmp_path)
    first, *others = sorted(names(tmp_path, split))
    lacking = f"voc/{folder}/{first}.png: no such label map"
    remedy = f"set {setting}: false in the dataset's config"
    count = f"(1 of {1 + len(others)} images of the split '{split}' have none)"
    (tmp_path / f"voc/{folder}/{first}.png").unlink()
    done = run.snakemake("all")
    assert done.returncode != 0
    (line,) = {line for line in done.stdout.splitlines() if lacking in line}
    assert count in line
    assert line.endswith(remedy)
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()

    section, *keys = setting.split(".")
    change: object = False
    for key in reversed(keys):
        change = {key: change}
    assert run.stale("all", overrides=merge(SMALL, {section: change}))


def test_labels_of_an_image_that_is_not_there_are_not_missed(tmp_path: Path) -> None:
    run = own_labels(tmp_path)
    name = names(tmp_path, "val")[0]
    for file in (f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png"):
        (tmp_path / "voc" / file).unlink()
    assert run.stale("all")["evaluate_instances"] == 1
