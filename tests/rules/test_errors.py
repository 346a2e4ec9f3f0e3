"""Mistakes in the config are told in one clear line, before any job starts."""

from pathlib import Path

import pytest
import yaml

from tests.rules.conftest import BACKBONE, SMALL, Workflow, write_backbone


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
        # A copy of the user's is read as it is, whatever could be downloaded.
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


def test_weights_of_another_shape_list_their_keys(tmp_path: Path) -> None:
    from PIL import Image

    other = {**SMALL["features"], "backbone_options": {**BACKBONE, "depth": 3}}
    run = workflow(tmp_path, PHOTOS, features=other)
    Image.new("RGB", (80, 80), "red").save(tmp_path / "photos/red.png")
    assert run.snakemake("all").returncode != 0
    text = "".join(path.read_text() for path in tmp_path.glob("logs/mine/train/features/*.log"))
    (line,) = {line for line in text.splitlines() if line.startswith("error:")}
    assert "backbone.pth" in line
    assert "missing keys: blocks.2." in line
