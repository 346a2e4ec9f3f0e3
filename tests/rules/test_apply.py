"""`apply` on a folder of new images, exports, and contact sheets, all from a finished demo."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.rules.conftest import REPOSITORY, Workflow, logs
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.settings.layers import merge

pytestmark = pytest.mark.workflow
SIZES = {"a.jpg": (50, 71), "deep/b c.png": (130, 40), "deep/side.jpg": (33, 48)}


@pytest.fixture(scope="module")
def new_images(tmp_path_factory) -> Path:
    """Images of other sizes than the demo's; EXIF turns one of them, and one is broken."""
    folder = tmp_path_factory.mktemp("pictures") / "new photos"
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (name, size) in enumerate(SIZES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        options = {"exif": exif} if "side" in name else {}
        Image.fromarray(noise).save(path, **options)
    (folder / "deep" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return folder


def test_apply(finished: Workflow, new_images: Path) -> None:
    done = finished.snakemake("apply", "--config", f"apply={new_images}")
    assert done.returncode == 0, done.stdout[-6000:] + logs(finished.directory)
    base = finished.directory / "results/demo/applied/new_photos"
    found = {
        path.relative_to(base / "label_maps").as_posix(): label_maps.read_png(path).shape
        for path in (base / "label_maps").rglob("*.png")
    }
    sizes = {"a.png": (50, 71), "deep/b c.png": (130, 40), "deep/side.png": (48, 33)}
    assert found == sizes
    for name, (height, width) in sizes.items():
        with Image.open((base / "overlays" / name).with_suffix(".jpg")) as image:
            assert image.size == (width, height)
    objects = COCO(base / "objects.json")
    assert {image["file_name"] for image in objects.imgs.values()} == set(SIZES)
    assert all(0 <= annotation["score"] <= 1 for annotation in objects.anns.values())
    candidates = finished.directory / "results/demo/seed-0/applied/new_photos/candidates.json"
    assert len(json.loads(candidates.read_text())) >= len(objects.anns)
    with open(base / "rejected.csv", newline="") as file:
        assert [row["file_name"] for row in csv.DictReader(file)] == ["deep/broken.jpg"]
    assert finished.stale("all") == {}


def test_models_of_cocos_layout(tmp_path: Path, new_images: Path) -> None:
    """The config of a COCO dataset lists images by split; new images are found without a list."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--dry-run", "--quiet", "rules", "--config", "datasets=[coco20k]"]
    command += [f"apply={new_images}", "--", "apply"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "write_applied" in done.stdout


def test_a_folder_that_is_not_there_is_one_line(finished: Workflow) -> None:
    done = finished.snakemake("--dry-run", "apply", "--config", "apply=nowhere")
    assert done.returncode != 0
    assert "apply: there is no folder nowhere" in done.stdout
    assert "Traceback" not in done.stdout


def test_exports(finished: Workflow) -> None:
    few = merge(finished.overrides, {"exports": {"formats": ["coco", "fiftyone"]}})
    done = finished.snakemake("exports", overrides=few)
    assert done.returncode == 0, done.stdout[-6000:] + logs(finished.directory)
    base = finished.directory / "results/demo/exports"
    assert {path.name for path in base.iterdir()} == {"coco", "fiftyone", "model"}
    assert len(COCO(base / "coco/predictions.json").imgs) == 6
    samples = json.loads((base / "fiftyone/samples.json").read_text())["samples"]
    assert all("ground_truth" in sample for sample in samples)
    card = (base / "model/README.md").read_text()
    assert "14 training images" in card
    assert "mIoU" in card
    assert finished.stale("exports", overrides=few) == {}


def test_numbers_of_clusters_are_compared(finished: Workflow) -> None:
    done = finished.snakemake("suggest_clusters")
    assert done.returncode == 0, done.stdout[-6000:] + logs(finished.directory)
    folder = finished.directory / "results/demo/suggested_clusters"
    assert (folder / "counts.csv").read_text().startswith("clusters,silhouette,stability,")
    assert (folder / "index.html").stat().st_size > 10_000
    assert finished.stale("all") == {}


def test_contact_sheets_and_names_from_them(finished: Workflow) -> None:
    done = finished.snakemake("contact_sheets")
    assert done.returncode == 0, done.stdout[-6000:] + logs(finished.directory)
    folder = finished.directory / "results/demo/seed-0/contact_sheets"
    assert len(list(folder.glob("cluster_*.png"))) == 6
    names = finished.directory / "config/names/demo.yaml"
    names.parent.mkdir(parents=True, exist_ok=True)
    try:
        names.write_text((folder / "names.yaml").read_text())
        # As long as the template is not edited, it gives every cluster the name that it has.
        assert finished.stale("all") == {}
    finally:
        names.unlink()
