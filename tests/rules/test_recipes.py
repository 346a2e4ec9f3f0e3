"""The paper's recipes: plans of complete runs, and small runs from the download to the report.

A server on this machine has miniatures of the archives and weights in their real formats. The
recipes are used unchanged, except that OVERLAY reduces sizes and numbers of steps. The runs take
minutes and are started by `pytest -m recipes`.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests import miniatures
from tests.http_server import Server, serving
from tests.rules.conftest import REPOSITORY, Workflow, logs
from workflow_scripts.maskdistill.files import shards

# Sizes and numbers of steps. All other settings are those of the recipe.
OVERLAY = {
    "shards": 1,
    "seeds": [0],
    "features": {"shorter_side": 64},
    "clustering": {"clusters": 3},
    "mask_rcnn": {
        "iterations": 2,
        "batch_size": 2,
        "learning_rate_steps": [1],
        "warmup_iterations": 1,
        "train_sides": [64],
        "proposals": 40,
        "sampled_proposals": 16,
    },
    "candidates": {"shorter_side": 64, "proposals": 20, "per_image": 5},
    "segmentation": {"epochs": 1, "batch_size": 4, "crop_size": 64},
    "crf": {"iterations": 2},
    "evaluation": {"linear_probe": {"epochs": 1, "batch_size": 4}},
    "report": {"examples": 2, "crops": 2},
}
OWN, SBD_ONLY = ["2007_000032", "2007_000039"], ["2008_000002", "2008_000003"]
VAL = ["2007_000033", "2007_000042"]
COCO20K, OTHERS = [9, 25, 30, 34], [36, 42]


def weights_content() -> dict[str, bytes]:
    return {
        "data/weights/dino_deitsmall16_pretrain.pth": miniatures.dino_weights(16),
        "data/weights/dino_deitsmall8_pretrain.pth": miniatures.dino_weights(8),
        "data/weights/moco_v2_800ep_pretrain.pth.tar": miniatures.moco_weights(),
    }


def voc2012() -> dict[str, bytes]:
    lists = {"train": OWN, "val": VAL, "trainval": OWN + VAL}
    return {
        "VOCtrainval_11-May-2012.tar": miniatures.tar(
            miniatures.voc_files(2012, OWN + VAL + SBD_ONLY, lists)
        ),
        # SBD's lists also have images of VOC, even validation images, as the real ones do.
        "benchmark.tgz": miniatures.tar(
            miniatures.sbd_files([SBD_ONLY[0], OWN[0]], [SBD_ONLY[1], VAL[0]]), "gz"
        ),
        "VOCtrainval_06-Nov-2007.tar": miniatures.tar(
            miniatures.voc_files(2007, ["000005", "000007"], {"train": ["000005"]})
        ),
        "VOCtest_06-Nov-2007.tar": miniatures.tar(
            miniatures.voc_files(2007, ["000001"], {"test": ["000001"]})
        ),
    }


def coco2014() -> dict[str, bytes]:
    annotations, pictures = miniatures.coco_files(COCO20K + OTHERS)
    return {
        "annotations_trainval2014.zip": miniatures.zipped(annotations),
        "train2014.zip": miniatures.zipped(pictures),
    }


@pytest.fixture
def server():
    with serving() as state:
        yield state


def checkout(folder: Path, server: Server, archives: dict[str, bytes]) -> Path:
    """A copy of the repository whose list of downloads points to the server."""
    copied = folder / "checkout"
    for name in subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines():
        if (REPOSITORY / name).is_file() and not (REPOSITORY / name).is_symlink():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, copied / name)
    path = copied / "resources" / "downloads.yaml"
    catalogue = yaml.safe_load(path.read_text())
    single = weights_content()
    for name, content in archives.items():
        server.files[name] = content
    for source in [a for d in catalogue["datasets"].values() for a in d["archives"]]:
        name = source["url"].rsplit("/", 1)[1]
        source["url"] = server.url(name)
        if name in archives:
            source["bytes"] = len(archives[name])
            source["sha256"] = hashlib.sha256(archives[name]).hexdigest()
            source.pop("md5", None)
    for name, content in single.items():
        server.files[name] = content
        source = catalogue["files"][name] = {"url": server.url(name)}
        if "moco" in name:  # MoCo's authors publish only the beginning of the MD5
            source["md5"] = hashlib.md5(content).hexdigest()[:8]
    path.write_text(yaml.safe_dump(catalogue))
    return copied


def run(tmp_path: Path, server: Server, name: str, archives: dict[str, bytes]) -> Workflow:
    """Run a recipe up to its report, and check that each file was downloaded only once."""
    copied = checkout(tmp_path, server, archives)
    directory = tmp_path / "run"
    (directory / "resources").mkdir(parents=True)
    listed = "".join(f"{image_id}\n" for image_id in COCO20K)
    (directory / "resources" / "coco20k.txt").write_text(listed)
    workflow = Workflow(directory, [name], OVERLAY)
    done = workflow.snakemake("all", repository=copied)
    assert done.returncode == 0, done.stdout[-6000:] + logs(directory)
    asked = [path for path, _ in server.requests]
    assert len(asked) == len(set(asked))  # every file was requested once
    pins = json.loads((copied / "resources" / "checksums.json").read_text())
    assert {url: entry["sha256"] for url, entry in pins.items()} == {
        server.url(path): hashlib.sha256(server.files[path]).hexdigest() for path in asked
    }
    assert workflow.stale("all", repository=copied) == {}
    return workflow


@pytest.mark.recipes
def test_voc2012_from_download_to_report(tmp_path, server):
    workflow = run(tmp_path, server, "voc2012", voc2012())
    root, base = workflow.directory / "data/voc2012", workflow.directory / "results/voc2012"
    train = (root / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    assert train == sorted(OWN + SBD_ONLY)
    assert {path.stem for path in (root / "SegmentationClassAug").iterdir()} == set(train)
    with Image.open(root / "SegmentationClass" / f"{VAL[0]}.png") as image:
        assert image.mode == "P"
        assert 255 in np.asarray(image)
    assert not (root / "SBD" / "img").exists()
    assert not list((workflow.directory / "data/archives").iterdir())
    support = workflow.directory / "results/voc2007/train/mask_embeddings/0000.parquet"
    assert shards.read_table([support]).num_rows == 3
    metrics = json.loads((base / "seed-0/metrics.json").read_text())
    assert metrics["images"] == len(VAL)
    assert set(metrics["steps"]) == {
        "initial_masks",
        "mask_rcnn",
        "segmentation",
        "segmentation_crf",
        "segmentation_round_1",
        "segmentation_round_1_crf",
    }
    instances = json.loads((base / "seed-0/instances.json").read_text())
    # All images with masks are scored, including those that were learned from.
    assert (instances["split"], instances["images"]) == ("instances", len(OWN + VAL))
    assert set(json.loads((base / "seed-0/linear_probe.json").read_text())["steps"]) == {
        "linear_probe",
        "linear_probe_crf",
        "linear_probe_round_1",
        "linear_probe_round_1_crf",
    }
    assert instances["objects"] == 2 * len(OWN + VAL)
    assert instances["matched_on"] == {"split": "val", "images": len(VAL)}
    report = (base / "report.html").read_text()
    assert f"{len(OWN + VAL)} images of the split “instances” with" in report
    assert f"fixed on {len(VAL)} images of the split “val”, not on these" in report
    # Whatever settings change, finished downloads are not repeated.
    change = {**OVERLAY, "masks": {"top_k": 0.3}, "seeds": [0, 1]}
    stale = workflow.stale("all", overrides=change, repository=tmp_path / "checkout")
    assert "make_masks" in stale
    assert not {rule for rule in stale if rule.startswith("download")}


@pytest.mark.recipes
def test_coco20k_from_download_to_report(tmp_path, server):
    workflow = run(tmp_path, server, "coco20k", coco2014())
    results = workflow.directory / "results"
    for name, expected in (("coco20k", COCO20K), ("coco2014", OTHERS)):
        table = shards.read_table([results / name / "train/images/0000.parquet"])
        assert table["image_id"].to_pylist() == expected
    metrics = json.loads((results / "coco20k/seed-0/metrics.json").read_text())
    assert metrics["class_names"] == ["background", "person", "cat"]
    assert (results / "coco20k/report.html").stat().st_size > 10_000


@pytest.mark.recipes
@pytest.mark.parametrize(
    ("name", "support", "archives"),
    [
        ("voc2012_official", "voc2007_official", voc2012),
        ("coco20k_official", "coco2014_official", coco2014),
    ],
)
def test_the_variants_of_the_published_code(tmp_path, server, name, support, archives):
    workflow = run(tmp_path, server, name, archives())
    results = workflow.directory / "results"
    centroids = results / name / "seed-0/clusters/centroids.parquet"
    assert len(shards.read_metadata(centroids)["standard_deviation"]) == 384
    for dataset in (name, support):
        embeddings = results / dataset / "train/mask_embeddings/0000.parquet"
        settings = shards.read_metadata(embeddings)["settings"]["embedding"]
        assert settings["input"] == "box_crop"
        assert settings["backbone"] == "vit_small_patch8_224.dino"
    masks = results / name / "train/masks/0000.parquet"
    assert shards.read_metadata(masks)["settings"]["masks"]["heads"] == [0, 1, 2, 3, 4]
    assert (results / name / "report.html").stat().st_size > 10_000


@pytest.mark.workflow
def test_a_copy_of_the_users_is_only_read(tmp_path):
    lists = {"train": OWN, "val": VAL, "trainval": OWN + VAL}
    files = miniatures.voc_files(2012, OWN + VAL, lists)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "train_aug.txt").write_text("".join(f"{name}\n" for name in OWN))
    overrides = {
        **OVERLAY,
        "clustering": {"clusters": 3, "support": []},
        "dataset": {
            "root": str(tmp_path / "VOCdevkit/VOC2012"),
            "splits": {"train": str(tmp_path / "train_aug.txt")},
        },
    }
    directory = tmp_path / "run"
    directory.mkdir()
    jobs = Workflow(directory, ["voc2012"], overrides).stale("all")
    assert "download_dataset" not in jobs
    assert jobs["download_file"] == 2  # weights
    assert jobs["list_images"] == 3


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("VOCtrainval_11-May-2012.tar", lambda _: b"another", "bytes instead of"),
        ("VOCtrainval_11-May-2012.tar", lambda content: content[:-1] + b"x", "wrong checksum"),
        ("benchmark.tgz", lambda _: None, "404"),
    ],
    ids=["another archive", "tampered archive", "no archive"],
)
def test_a_download_that_fails_leaves_nothing_half_written(tmp_path, server, name, change, message):
    archives = voc2012()
    copied = checkout(tmp_path, server, archives)
    server.files[name] = change(archives[name])
    if server.files[name] is None:
        del server.files[name]
    workflow = Workflow(tmp_path / "run", ["voc2012"], OVERLAY)
    workflow.directory.mkdir()
    marker = "data/voc2012/downloaded.json"
    done = workflow.snakemake(marker, repository=copied)
    assert done.returncode != 0
    (line,) = (workflow.directory / "logs/data/voc2012.log").read_text().splitlines()[-1:]
    assert line.startswith("error:")
    assert message in line
    data = workflow.directory / "data"
    assert not list(data.glob("voc2012/*"))
    assert not [path for path in data.rglob("*") if path.name.startswith(".")]
    # When the server has the right files, the next run continues with the finished downloads.
    server.files.update(archives)
    done = workflow.snakemake(marker, repository=copied)
    assert done.returncode == 0, logs(workflow.directory)
    assert (workflow.directory / marker).is_file()
