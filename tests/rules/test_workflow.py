"""The whole workflow on a tiny dataset: its outputs, and that a second run has nothing to do."""

import io
import json
import re
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.rules.conftest import Workflow
from workflow_scripts.maskdistill.files import label_maps, schemas, shards

pytestmark = pytest.mark.workflow
RESULTS = "results/demo"
SECOND_OUTPUTS = ("assignments", "centroids", "per_class", "linear_probe_per_class")
STAGES = {
    "train/images": "images",
    "train/features": "features",
    "train/masks": "masks",
    "train/mask_embeddings": "mask_embeddings",
    "seed-0/val/assignments": "assignments",
    "seed-0/train/candidates": "candidates",
    "seed-0/train/confident": "confident",
    "seed-0/train/label_maps": "label_maps",
    "seed-0/val/initial_label_maps": "label_maps",
    "seed-0/round-0/val/predictions": "predictions",
    "seed-0/round-0/val/predictions_crf": "predictions",
    "seed-0/round-0/train/predictions_crf": "predictions",
    "seed-0/round-1/val/predictions": "predictions",
    "seed-0/round-1/val/predictions_crf": "predictions",
    "train/ground_truth": "label_maps",
    "seed-0/round-0/val/linear_probe": "predictions",
    "seed-0/round-1/val/linear_probe": "predictions",
    "seed-0/round-1/val/linear_probe_crf": "predictions",
}


def test_nothing_is_to_be_done_after_a_run(finished: Workflow) -> None:
    assert finished.stale("all") == {}


@pytest.mark.parametrize(("folder", "stage"), STAGES.items())
def test_shards_have_the_columns_of_the_contract(finished: Workflow, folder, stage) -> None:
    paths = sorted((finished.directory / RESULTS / folder).glob("*.parquet"))
    count = finished.overrides["shards"]["val" if "val" in folder.split("/") else "train"]
    assert [path.name for path in paths] == [f"{shard:04d}.parquet" for shard in range(count)]
    expected = schemas.schema(stage, embedding_size=48)
    for path in paths:
        table = shards.read_table([path])
        assert table.schema.remove_metadata().equals(expected)
        assert shards.read_metadata(path)["settings"] is not None


def test_duckdb_opens_every_stage_by_glob(finished: Workflow) -> None:
    for folder in STAGES:
        pattern = finished.directory / RESULTS / folder / "*.parquet"
        ((rows,),) = duckdb.sql(f"SELECT count(*) FROM '{pattern}'").fetchall()
        assert rows > 0


def test_every_image_stands_in_every_stage(finished: Workflow) -> None:
    base = finished.directory / RESULTS
    for split, per_split in (("train", 14), ("val", 6)):
        listed = set(
            shards.read_table(sorted((base / split / "images").glob("*")))["image_id"].to_pylist()
        )
        assert len(listed) == per_split
        folders = [f"{split}/features", f"{split}/masks"]
        seeded = ("candidates", "confident", "label_maps")
        folders += [f"seed-0/{split}/{stage}" for stage in seeded]
        for folder in folders:
            table = shards.read_table(sorted((base / folder).glob("*.parquet")))
            assert set(table["image_id"].to_pylist()) == listed, folder


def test_pycocotools_loads_pseudo_labels_and_candidates(finished: Workflow) -> None:
    base = finished.directory / RESULTS / "seed-0"
    truth = COCO(str(base / "pseudo_labels.json"))
    assert len(truth.imgs) == 14
    assert [c["name"] for c in truth.cats.values()] == [f"cluster_{i:03d}" for i in range(1, 7)]
    annotation = next(iter(truth.anns.values()))
    assert truth.annToMask(annotation).sum() == annotation["area"]
    # pycocotools needs a dataset with the images of `val`, because candidates are those of `val`.
    results = json.loads((base / "val" / "candidates.json").read_text())
    ids = {result["image_id"] for result in results}
    truth.dataset["images"] = [{"id": i, "height": 128, "width": 128} for i in ids]
    truth.createIndex()
    assert len(truth.loadRes(results).anns) == len(results) > 0


@pytest.mark.parametrize("folder", ["label_maps", "predictions"])
def test_unpacked_label_maps_are_palette_pngs(finished: Workflow, folder) -> None:
    base = finished.directory / RESULTS
    source = "seed-0/val/label_maps"
    if folder == "predictions":
        source = "seed-0/round-1/val/predictions_crf"
    rows = [row for path in sorted((base / source).glob("*")) for row in shards.read_rows(path)]
    files = sorted((base / folder).rglob("*.png"))
    assert len(files) == len(rows) == 6
    for row in rows:
        data = (base / folder / row["image"]["path"]).read_bytes()
        assert data == row["image"]["bytes"]
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == "P"
            palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
            assert (palette == label_maps.PALETTE[: len(palette)]).all()
            with Image.open(finished.directory / "data/demo" / row["file_name"]) as original:
                assert image.size == original.size


def test_metrics_and_report_are_written(finished: Workflow) -> None:
    base = finished.directory / RESULTS
    metrics = json.loads((base / "seed-0" / "metrics.json").read_text())
    rounds = [
        "segmentation",
        "segmentation_crf",
        "segmentation_round_1",
        "segmentation_round_1_crf",
    ]
    assert list(metrics["steps"]) == ["initial_masks", "mask_rcnn", *rounds]
    assert all(0 <= step["miou"] <= 1 for step in metrics["steps"].values())
    report = (base / "report.html").read_text()
    assert "data:image/" in report
    assert "https://" not in report


def test_every_number_of_the_evaluation_is_summarized(finished: Workflow) -> None:
    base = finished.directory / RESULTS
    summary = json.loads((base / "metrics.json").read_text())
    instances = json.loads((base / "seed-0" / "instances.json").read_text())
    assert list(instances["steps"]) == ["initial_masks", "mask_rcnn"]
    for step, found in instances["steps"].items():
        assert found["matching"] == "hungarian"
        for name in ("class_agnostic_multi", "class_aware_multi", "class_agnostic_single"):
            mean = summary["instances"]["steps"][step][name]["ap50"]
            assert mean == {"mean": found[name]["ap50"], "sd": None, "n": 1}
    probe = json.loads((base / "seed-0" / "linear_probe.json").read_text())
    assert list(probe["steps"]) == [
        "linear_probe",
        "linear_probe_crf",
        "linear_probe_round_1",
        "linear_probe_round_1_crf",
    ]
    for step, found in probe["steps"].items():
        assert found["matching"]["method"] == "supervised"
        assert summary["linear_probe"]["steps"][step]["miou"]["mean"] == found["miou"]
    assert set(summary["steps"]["segmentation"]) >= {"boundary_iou", "nmi", "ari", "purity"}


def test_every_job_has_log_and_benchmark(finished: Workflow) -> None:
    for output in (finished.directory / RESULTS).rglob("*.parquet"):
        relative = output.relative_to(finished.directory / "results").with_suffix("")
        if relative.name in SECOND_OUTPUTS or "confident" in str(output):
            continue  # a rule's log has the name of its first output
        if relative.parent.name == "label_maps":
            continue
        assert (finished.directory / "logs" / relative).with_suffix(".log").exists()
        assert (finished.directory / "benchmarks" / relative).with_suffix(".tsv").exists()


def test_no_temporary_file_is_left(finished: Workflow) -> None:
    assert not [path for path in finished.directory.glob("results/**/.*.tmp*")]


def test_lint_finds_nothing_that_is_not_meant(finished: Workflow) -> None:
    """Two of the linter's rules are broken on purpose. Input functions are in the same file as
    their rules. Values that change no result (device, folders) are not parameters of a rule.
    """
    text = finished.snakemake("--lint").stdout
    titles = re.findall(r"^    \* (.+)$", text, flags=re.MULTILINE)
    meant = ("Mixed rules and functions", "Shell command directly uses variable")
    assert [title for title in titles if not title.startswith(meant)] == []


def test_snakemake_writes_its_own_report(finished: Workflow) -> None:
    done = finished.snakemake("--report", "overview.html")
    assert done.returncode == 0, done.stdout[-3000:]
    text = (finished.directory / "overview.html").read_text()
    for shown in ("Reports", "Scores", "linear probe by class", "mask AP by pycocotools"):
        assert shown in text, shown


def test_labels_change_nothing_before_the_evaluation(finished: Workflow, tmp_path: Path) -> None:
    """If all label files are exchanged with each other, no model and no prediction changes."""
    shutil.copytree(finished.directory / "data", tmp_path / "data")
    shutil.copyfile(finished.directory / "backbone.pth", tmp_path / "backbone.pth")
    moved = {}
    for folder in ("SegmentationClass", "SegmentationObject"):
        paths = sorted((tmp_path / "data/demo" / folder).glob("*.png"))
        contents = [path.read_bytes() for path in paths]
        assert len(set(contents)) > 1
        moved |= zip(paths, contents[1:] + contents[:1], strict=True)
    for path, content in moved.items():
        path.write_bytes(content)
    last = [
        f"{RESULTS}/seed-0/{name}"
        for name in (
            "round-1/val/predictions_crf/0000.parquet",
            "val/initial_label_maps/0000.parquet",
            "val/candidates.json",
        )
    ]
    again = Workflow(tmp_path, finished.datasets, finished.overrides)
    done = again.snakemake(*last)
    assert done.returncode == 0, done.stdout[-3000:]
    written = [path for path in (tmp_path / RESULTS).rglob("*") if path.is_file()]
    assert len(written) > 30
    for path in written:
        original = finished.directory / path.relative_to(tmp_path)
        assert path.read_bytes() == original.read_bytes(), path
    # The scenes were not generated again.
    assert all(path.read_bytes() == content for path, content in moved.items())
