"""Mistakes in the config are reported in one clear line, before any job starts."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import timm
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.rules.conftest import BACKBONE, SMALL, Workflow, copy_repository, write_backbone


def workflow(tmp_path: Path, dataset: dict, *, name: str = "mine", **overrides: dict) -> Workflow:
    (tmp_path / "config/datasets").mkdir(parents=True)
    (tmp_path / "config/datasets/mine.yaml").write_text(yaml.safe_dump(dataset))
    (tmp_path / "photos").mkdir()
    write_backbone(tmp_path / "backbone.pth")
    return Workflow(tmp_path, [name], {**SMALL, **overrides})


PHOTOS = {"dataset": {"root": "photos", "splits": {"train": "."}}}


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ({**PHOTOS, "masks": {"topk": 0.4}}, {}, "unknown key 'masks.topk', did you mean 'top_k'?"),
        ({**PHOTOS, "mask": {}}, {}, "unknown key 'mask', did you mean 'masks'?"),
        (PHOTOS, {"name": "mein"}, "unknown dataset 'mein', did you mean 'mine'?"),
        ({"dataset": {"root": "fotos", "splits": {"train": "."}}}, {}, "there is no folder fotos"),
        (PHOTOS, {}, "photos: no images for the split 'train'"),
        ({**PHOTOS, "features": {"weights": "no.pth"}}, {"features": {}}, "no file no.pth"),
        ({**PHOTOS, "confidence": {"threshold": "1e-4"}}, {}, "write 1.0e-4"),
        ({"dataset": {"root": "photos"}}, {}, "needs a split `train`"),
        (PHOTOS, {"name": "my photos"}, "datasets.0: 'my photos' does not match"),
        (
            {"dataset": {"root": "data/voc2011", "download": "voc2011", "splits": {"train": "."}}},
            {},
            "there is no 'voc2011' in resources/downloads.yaml",
        ),
        # A `root` that the user sets must exist; nothing is downloaded into it.
        (
            {"dataset": {"root": "mine", "download": "voc2012", "splits": {"train": "."}}},
            {},
            "there is no folder mine",
        ),
    ],
)
def test_one_line_before_any_job(tmp_path, dataset, options, message) -> None:
    done = workflow(tmp_path, dataset, **options).snakemake("--dry-run", "all")
    assert done.returncode != 0
    assert any(message in line for line in done.stdout.splitlines()), done.stdout
    assert "Traceback" not in done.stdout


def test_weights_of_another_shape_are_told_on_the_terminal(tmp_path: Path) -> None:
    other = {**SMALL["features"], "backbone_options": {**BACKBONE, "depth": 3}}
    run = workflow(tmp_path, PHOTOS, features=other, shards=1)
    Image.new("RGB", (80, 80), "red").save(tmp_path / "photos/red.png")
    done = run.snakemake("all")
    assert done.returncode != 0
    text = "".join(path.read_text() for path in tmp_path.glob("logs/mine/train/features/*.log"))
    (line,) = {line for line in text.splitlines() if line.startswith("error:")}
    assert "backbone.pth" in line
    assert "depth 2 instead of 3" in line
    # The end of the log is printed once for each message of Snakemake about the failure.
    (path,) = tmp_path.glob("logs/mine/train/features/*.log")
    shown = f"{path.relative_to(tmp_path)} ends with:"
    assert 1 <= done.stdout.count(shown) == done.stdout.count(f"    {line}")


def test_without_a_network_no_job_is_started(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    backbone = {"backbone": "vit_small_patch16_224.dino", "backbone_options": {}, "weights": None}
    run = workflow(tmp_path, PHOTOS, features=backbone, shards=1)
    Image.new("RGB", (80, 80), "red").save(tmp_path / "photos/red.png")
    path = "data/weights/vit_small_patch16_224.dino.safetensors"
    line = f"{path} is missing, and http://127.0.0.1:9 cannot be reached: put the file"

    planned = run.snakemake("--dry-run", "all")
    assert planned.returncode == 0, planned.stdout
    assert line not in planned.stdout

    done = run.snakemake("all")
    assert done.returncode != 0
    assert f"No job was started. {line}" in done.stdout
    assert done.stdout.index(line) < done.stdout.index("Building DAG of jobs")
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()

    # Files that can be made without weights are still made.
    listed = "results/mine/train/images/0000.parquet"
    assert run.snakemake(listed).returncode == 0
    assert (tmp_path / listed).is_file()


def test_fetched_weights_make_nothing_stale_unless_their_content_changes(
    tmp_path: Path, monkeypatch
) -> None:
    """The weights are found in the user's cache of timm's hub, so that no network is needed."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    cached = tmp_path / "hub/hub/models--timm--vit_tiny_patch16_224.augreg_in21k"
    (cached / "snapshots/1").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("1")
    options = {**BACKBONE, "depth": 1}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options)
    save_file(model.state_dict(), cached / "snapshots/1/model.safetensors")
    name = "vit_tiny_patch16_224.augreg_in21k"
    backbone = {"backbone": name, "backbone_options": options, "weights": None}
    checkout = copy_repository(tmp_path / "checkout")  # because its checksums.json is changed
    run = workflow(tmp_path, PHOTOS, features={**SMALL["features"], **backbone}, shards=1)
    Image.new("RGB", (80, 80), "red").save(tmp_path / "photos/red.png")
    features = "results/mine/train/features/0000.parquet"
    weights = tmp_path / f"data/weights/{name}.safetensors"

    def stale() -> dict:
        return run.stale(features, repository=checkout)

    assert {"fetch_weights", "list_images", "extract_features"} == set(stale())
    # `job_server` cannot run this: the hub's library reads the variables when it is imported.
    command = run.command(features, repository=checkout)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights.is_file()
    assert stale() == {}

    later = (tmp_path / features).stat().st_mtime + 100
    os.utime(weights, (later, later))
    assert stale() == {}
    kept = shutil.copy(weights, tmp_path / "kept")
    weights.unlink()
    assert stale() == {}  # all jobs that need the weights are finished
    shutil.copy(kept, weights)
    assert stale() == {}

    for parameter in model.parameters():
        parameter.data += 1
    save_file(model.state_dict(), weights)
    assert set(stale()) == {"extract_features"}
