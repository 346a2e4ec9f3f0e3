"""An exported model works as torch.export, as ONNX, and with the code of the model card."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from tests.scripts.test_predict_segmentation import ARCHITECTURE
from workflow_scripts import export_model
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.segmentation import label_map_prediction
from workflow_scripts.maskdistill.segmentation.deeplab import build_deeplab
from workflow_scripts.maskdistill.segmentation.token_training import build_vit_head
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.torch_tools.training_run import publish

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
SMALLER = {**ARCHITECTURE, "depth": 10}
SETTINGS = {
    "curation": {"names": ["bird", "a | b", "cluster_004"], "classes": [1, 2, 1, 3, 0]},
    "features": {"backbone": "vit"},
    "exports": {"weights_licence": None},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    model = build_deeplab(3, **SMALLER)
    with torch.no_grad():
        model.head[-1].weight *= 30
    content = {"state_dict": model.state_dict(), "settings": SMALLER, "clusters": 3}
    publish(content, base / "model.pt")
    return base


@pytest.fixture(scope="module")
def exported(folder):
    return export(folder)


def export(folder):
    """Export folder/model.pt as the rule export_model does; returns the folder of the export."""
    from workflow_scripts.maskdistill.files import shards

    rows = [
        {"image_id": n, "file_name": f"{n}.jpg", "height": 8, "width": 9, "shard": 0, "status": s}
        for n, s in enumerate(["ok", "ok", "empty file"])
    ]
    shards.write_table(folder / "images.parquet", "images", rows, {})
    scores = {"miou": 0.123, "pixel_accuracy": None, "matching": {"method": "hungarian"}}
    metrics = {"split": "val", "images": 7, "steps": {"segmentation": scores}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    options = ["--dataset=mine", f"--model={folder / 'model.pt'}"]
    options += [f"--images={folder / 'images.parquet'}", f"--metrics={folder / 'metrics.json'}"]
    options += [f"--settings={json.dumps(SETTINGS)}", f"--output={folder / 'out'}"]
    assert export_model.main(options) == 0
    return folder / "out"


@pytest.mark.parametrize("size", [(17, 40), (33, 47), (101, 64), (90, 31)])
def test_both_files_agree_with_the_trained_model_on_odd_sizes(folder, exported, size):
    predictor = label_map_prediction.load_predictor(folder / "model.pt", torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = predictor.predict_image(image)
    # Runtimes round logits differently, by less than 1e-5. Only pixels with a clear best class
    # must have the same label.
    best, second = expected.logits.topk(2, dim=0).values
    clear = (best - second > 1e-4).numpy()
    assert clear.mean() > 0.99
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    with torch.inference_mode():
        loaded = torch.export.load(exported / "model.pt2").module()
        graph = [value.numpy() for value in loaded(torch.from_numpy(image)[None])]
    for labels, probability in (session.run(None, {"image": image[None]}), graph):
        assert labels.shape == probability.shape == (1, *size)
        np.testing.assert_array_equal(labels[0][clear], expected.labels()[clear])
        np.testing.assert_allclose(probability[0], expected.probabilities().max(0), atol=1e-4)


def test_the_sides_that_may_vary_have_names(exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    (image,), (labels, probability) = session.get_inputs(), session.get_outputs()
    assert image.shape == [1, "height", "width", 3]
    assert labels.shape == probability.shape == [1, "height", "width"]


def test_the_card_says_what_it_is(exported):
    card = (exported / "README.md").read_text()
    for text in ("| 1 | bird | 1, 3 |", "a \\| b", "2 training images", "12.3 %", "undefined",
                 "Not stated", "segmentation.depth | 10"):  # fmt: skip
        assert text in card
    data = ModelCard.load(exported / "README.md").data
    assert data.pipeline_tag == "image-segmentation"
    assert data.license is None
    assert json.loads((exported / "classes.json").read_text()) == SETTINGS["curation"]["names"]


def test_the_card_of_a_decoder_on_a_transformer(tmp_path, tiny_backbone):
    settings = FeatureSettings.read(tiny_backbone | {"shorter_side": 40, "longer_side": 90})
    backbone = {
        "name": settings.backbone,
        "options": settings.backbone_options,
        "shorter_side": 40,
        "longer_side": 90,
    }
    content = {
        "model": "vit_head",
        "backbone": backbone,
        "state_dict": build_vit_head(3, settings, dropout=0.1).state_dict(),
        "settings": {"dropout": 0.1, "epochs": 7},
        "clusters": 3,
    }
    publish(content, tmp_path / "model.pt")
    card = (export(tmp_path) / "README.md").read_text()
    assert "A linear decoder on the frozen transformer `vit`, trained by MaskDistill" in card
    assert "sides of at least 9 pixels" in card
    assert "a shorter side of 40 pixels\nand at most 90 pixels on the longer side" in card
    assert "DeepLab" not in card


def test_the_snippet_runs_without_this_repository(exported, tmp_path):
    """The model card and docs/commands.md have the same code, and it can be run."""
    text = (REPOSITORY / "docs" / "commands.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    card = (exported / "README.md").read_text()
    assert re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL) == [snippet]
    for name in ("model.onnx", "classes.json"):
        (tmp_path / name).symlink_to(exported / name)
    Image.new("RGB", (45, 38), "red").save(tmp_path / "photo.jpg")
    done = subprocess.run(
        [sys.executable, "-I", "-c", snippet],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(.+): ([\d.]+)%$", done.stdout, flags=re.MULTILINE)
    assert {name for name, _ in found} <= {"background", *SETTINGS["curation"]["names"]}
    assert sum(float(share) for _, share in found) == pytest.approx(100, abs=0.3)
