"""The workflow on a folder of images without labels, with all kinds of good and bad files."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.odd_files import write_deep_png
from tests.rules.conftest import SMALL, Workflow, logs, write_backbone
from workflow_scripts.maskdistill.data import folders
from workflow_scripts.maskdistill.files import shards

pytestmark = pytest.mark.workflow

BAD = {
    "bad/zero bytes.jpg": "empty file",
    "bad/truncated.jpg": "truncated or damaged",
    "bad/text.png": "not an image",
    "bad/one pixel.png": "too small",
    "bad/cut.heic": "truncated or damaged",
}
GOOD = {
    "a/same.jpg",
    "b/same.jpg",
    "ärger & co/größe 1.webp",
    "cmyk.jpg",
    "16 bit.png",
    "alpha.png",
    "gray.tif",
    "portrait.jpg",
    "12 bit.png",
    "phone.HEIC",
    "animated.gif",
}
SKIPPED = {".txt": 2, ".cr2": 1, "hidden folder": 1, "frames or pages after the first": 1}


def picture(seed: int, size: tuple[int, int] = (70, 90)) -> Image.Image:
    """Colour noise with a square in it."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 120, (*size, 3)).astype(np.uint8)
    pixels[20:50, 20 + seed : 60 + seed] = generator.integers(130, 255, 3)
    return Image.fromarray(pixels)


def write_folder(root: Path) -> None:
    for folder in ("a", "b", "ärger & co", "bad"):
        (root / folder).mkdir(parents=True)
    picture(0).save(root / "a/same.jpg")
    picture(1).save(root / "b/same.jpg")
    picture(2).save(root / "ärger & co/größe 1.webp")
    picture(3).convert("CMYK").save(root / "cmyk.jpg")
    gray = np.asarray(picture(4).convert("L")).astype(np.uint16) * 257
    Image.fromarray(gray).save(root / "16 bit.png")
    write_deep_png(root / "12 bit.png", np.asarray(picture(8)).astype(np.uint16) * 16)
    picture(9).save(root / "phone.HEIC", "HEIF")
    picture(10).save(root / "animated.gif", save_all=True, append_images=[picture(11)])
    (root / "bad/cut.heic").write_bytes((root / "phone.HEIC").read_bytes()[:1500])
    picture(5).convert("RGBA").save(root / "alpha.png")
    picture(6).convert("L").save(root / "gray.tif")
    picture(7, (130, 64)).save(root / "portrait.jpg")
    (root / "bad/zero bytes.jpg").write_bytes(b"")
    whole = (root / "a/same.jpg").read_bytes()
    (root / "bad/truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "bad/text.png").write_text("not a picture")
    Image.new("RGB", (1, 1)).save(root / "bad/one pixel.png")
    for name in ("notes.txt", "ärger & co/more.TXT", "raw.CR2", ".cache/a.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no image at all, and not listed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    directory = tmp_path_factory.mktemp("folder")
    write_backbone(directory / "backbone.pth")
    write_folder(directory / "my photos")
    (directory / "config/datasets").mkdir(parents=True)
    (directory / "config/datasets/mine.yaml").write_text(
        yaml.safe_dump({"dataset": {"root": "my photos", "splits": {"train": "."}}})
    )
    overrides = {**SMALL, "clustering": {"clusters": 3, "redo": 1, "iterations": 5}}
    workflow = Workflow(directory, ["mine"], overrides)
    done = workflow.snakemake("all")
    assert done.returncode == 0, done.stdout[-6000:] + logs(directory)
    return workflow


def manifest(folder: Workflow) -> dict[str, str]:
    paths = sorted((folder.directory / "results/mine/train/images").glob("*.parquet"))
    rows = shards.read_table(paths).to_pylist()
    return {row["file_name"]: row["status"] for row in rows}


def test_bad_files_are_named_with_their_reason(folder: Workflow) -> None:
    statuses = manifest(folder)
    assert set(statuses) == set(BAD) | GOOD
    for name, reason in BAD.items():
        assert reason in statuses[name]
    texts = [path.read_text() for path in folder.directory.glob("logs/mine/train/images/*.log")]
    assert all(any(f"rejected {name}" in text for text in texts) for name in BAD)
    report = (folder.directory / "results/mine/report.html").read_text()
    assert all(name in report for name in BAD)


def test_what_was_skipped_is_told_by_type(folder: Workflow) -> None:
    manifests = sorted((folder.directory / "results/mine/train/images").glob("*.parquet"))
    found = folders.read_skipped(manifests)
    assert {kind: one["count"] for kind, one in found.items()} == SKIPPED
    texts = [path.read_text() for path in folder.directory.glob("logs/mine/train/images/*.log")]
    assert "skipped 1 × .cr2 (for example raw.CR2)" in "".join(texts)
    report = (folder.directory / "results/mine/report.html").read_text()
    assert "raw.CR2" in report
    assert "2 × .txt, 1 × .cr2" in report


def test_good_files_have_masks_and_predictions(folder: Workflow) -> None:
    statuses = manifest(folder)
    assert {name for name, status in statuses.items() if status == "ok"} == GOOD
    base = folder.directory / "results/mine"
    masks = shards.read_table(sorted((base / "train/masks").glob("*.parquet"))).to_pylist()
    assert {row["status"] for row in masks} <= {"ok", "empty mask"}
    assert len({row["image_id"] for row in masks}) == len(GOOD)
    found = {
        str(p.relative_to(base / "predictions")) for p in (base / "predictions").rglob("*.png")
    }
    assert found == {str(Path(name).with_suffix(".png")) for name in GOOD}


def test_without_labels_there_is_no_evaluation(folder: Workflow) -> None:
    assert not (folder.directory / "results/mine/metrics.json").exists()
    assert not list(folder.directory.glob("results/mine/**/metrics.json"))
    assert (folder.directory / "results/mine/report.html").stat().st_size > 10_000
    assert folder.stale("all") == {}


def test_a_new_image_recomputes_only_its_shard(folder: Workflow) -> None:
    new = folder.directory / "my photos/new.jpg"
    picture(9).save(new)
    try:
        stale = folder.stale("all")
    finally:
        new.unlink()
    for rule in ("list_images", "extract_features", "make_masks", "embed_masks"):
        assert stale[rule] == 1, rule
    assert stale["cluster_masks"] == 1
    assert stale["train_mask_rcnn"] == 1
    assert folder.stale("all") == {}


def test_a_removed_image_recomputes_only_its_shard(folder: Workflow) -> None:
    path = folder.directory / "my photos/b/same.jpg"
    kept = path.rename(folder.directory / "elsewhere.jpg")
    try:
        stale = folder.stale("all")
    finally:
        kept.rename(path)
    for rule in ("list_images", "extract_features", "make_masks", "embed_masks", "cluster_masks"):
        assert stale[rule] == 1, rule
    assert folder.stale("all") == {}


def test_a_touched_image_makes_nothing_stale(folder: Workflow) -> None:
    subprocess.run(["touch", str(folder.directory / "my photos/a/same.jpg")], check=True)
    assert folder.stale("all") == {}
