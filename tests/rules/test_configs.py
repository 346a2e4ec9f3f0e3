"""Every config of the repository can be read, and Snakemake can plan a run with it."""

import json
import shutil

import pytest
from PIL import Image

from tests.rules.conftest import REPOSITORY, Workflow, copy_repository
from workflow_scripts.maskdistill.demo import things
from workflow_scripts.maskdistill.settings.layers import read_yaml
from workflow_scripts.maskdistill.settings.whole_config import dataset_config

DATASETS = sorted(path.stem for path in (REPOSITORY / "config" / "datasets").glob("*.yaml"))


def shipped(name: str) -> dict:
    return dataset_config(
        name,
        read_yaml(REPOSITORY / "config" / "default.yaml"),
        [REPOSITORY / "config" / "datasets"],
        downloadable=read_yaml(REPOSITORY / "resources" / "downloads.yaml")["files"],
    )


SUPPORTS = {support for name in DATASETS for support in shipped(name)["clustering"]["support"]}


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in SUPPORTS])
def test_dry_run_of_a_shipped_config(tmp_path, name):
    """Data that are not in the repository are replaced by small files of the same format."""
    shutil.copytree(REPOSITORY / "resources", tmp_path / "resources")
    own = shipped(name)
    dataset, overrides = own["dataset"], {}
    if dataset["generate"] is None and dataset["download"] is None:
        assert dataset["adapter"] == "coco"
        (tmp_path / "images").mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / "1.jpg")
        listed = {"id": 1, "file_name": "1.jpg", "height": 48, "width": 64}
        content = {"images": [listed], "annotations": [], "categories": []}
        (tmp_path / "instances.json").write_text(json.dumps(content))
        overrides = {"dataset": {"root": "."}}
    jobs = Workflow(tmp_path, [name], overrides).stale("all")
    quick = own["segmentation"]["model"] == "vit_head"
    training = "train_vit_head" if quick else "train_segmentation"
    assert jobs[training] == len(own["seeds"]) * (own["crf"]["rounds"] + 1)
    assert ("evaluate" in jobs) == bool(dataset["ground_truth"])
    supports = own["clustering"]["support"]
    downloaded = {one["dataset"]["download"] for one in (own, *map(shipped, supports))} - {None}
    assert jobs.get("download_dataset", 0) == len(downloaded)
    stages = ("features", "embedding", "mask_rcnn", "segmentation")
    weights = {own[stage]["weights"] for stage in stages} - {None}
    here = {path for path in weights if path.startswith("resources/")}
    assert jobs.get("download_file", 0) + jobs.get("fetch_weights", 0) == len(weights - here)


def test_the_demo_names_the_generators_classes():
    dataset = read_yaml(REPOSITORY / "config" / "datasets" / "demo.yaml")["dataset"]
    assert tuple(dataset["classes"]) == things.CLASS_NAMES


def test_a_checkout_whose_path_has_a_space(tmp_path):
    checkout = copy_repository(tmp_path / "my repository")
    targets = ["results/demo/report.html", "results/demo/ablations/table_1.json"]
    run = Workflow(checkout, ["demo"], {})
    done = run.snakemake("--dry-run", "--printshellcmds", *targets, repository=checkout)
    assert done.returncode == 0, done.stdout
    quoted = f"--paper-tables '{checkout}/resources/paper_tables.json' "
    assert done.stdout.count(quoted) == done.stdout.count("--paper-tables ") == 2


@pytest.mark.parametrize("name", ["faq", "menu"])
def test_a_name_that_ends_with_a_letter_that_snakemake_interprets(tmp_path, name):
    folder = tmp_path / "config" / "datasets"
    folder.mkdir(parents=True)
    own = f"extends: demo\ndataset: {{root: data/{name}}}\n"
    (folder / f"{name}.yaml").write_text(own)
    shutil.copytree(REPOSITORY / "resources", tmp_path / "resources")
    done = Workflow(tmp_path, [name], {}).snakemake("--dry-run", "--printshellcmds", "all")
    assert done.returncode == 0, done.stdout
    assert f"--root data/{name} " in done.stdout
    assert f"--work-dir checkpoints/{name}/seed-0/mask_rcnn " in done.stdout
    assert f"data/{name[:-1]} " not in done.stdout
