"""The benchmarks for a GPU work; here they run on the CPU with small sizes."""

import json
from unittest import mock

import pytest
import torch
from torch import nn

from tests.bench import Row, _gpu, cuda_extraction, cuda_programs, cuda_training
from tests.bench.__main__ import main, write_json
from tests.bench.features import DEFAULTS
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs.throughput import measured_throughput
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings

CPU = torch.device("cpu")
SIZE = (48, 64)
SMALL = DEFAULTS | {
    "features": DEFAULTS["features"] | {"shorter_side": 32},
    "mask_rcnn": DEFAULTS["mask_rcnn"]
    | {
        "depth": 10,
        "weights": None,
        "batch_size": 2,
        "train_sides": [32],
        "roi_size": 4,
        "anchor_sizes": [16],
        "proposals": 8,
        "sampled_proposals": 4,
        "sampled_anchors": 16,
    },
    "candidates": DEFAULTS["candidates"] | {"shorter_side": 32, "proposals": 4, "per_image": 2},
    "segmentation": DEFAULTS["segmentation"]
    | {
        "depth": 10,
        "weights": None,
        "output_stride": 16,
        "atrous_rates": [1],
        "head_width": 8,
        "batch_size": 2,
        "crop_size": 32,
    },
    "evaluation": {
        "linear_probe": DEFAULTS["evaluation"]["linear_probe"] | {"batch_size": 2},
    },
}


@pytest.mark.parametrize("module", [cuda_extraction, cuda_programs, cuda_training])
def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys, module):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(module.rows()) == []
    assert "no CUDA GPU" in capsys.readouterr().out


def test_programs_get_a_number_of_pixels():
    assert FeatureSettings.read(DEFAULTS["features"]).side() == 640


def test_rows_of_extraction():
    with mock.patch.object(nn.Module, "compile"):  # compiling would take minutes on a CPU
        rows = list(cuda_extraction.network("vit_tiny_patch16_224", CPU, (64, 96), 2))
    assert len(rows) == 2 * len(cuda_extraction.PRECISIONS) + 3
    assert all(row.value > 0 for row in rows)


def test_what_does_not_compile_is_said(capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("no C compiler\nand more")

    backbone = mock.Mock(device=CPU)
    monkeypatch.setattr(cuda_extraction, "matrix_products", lambda *_: list)
    compiled = mock.Mock(last_block_features=fail)
    rows = list(cuda_extraction.extraction("tiny", backbone, compiled, torch.zeros(1)))
    assert len(rows) == 1
    assert "tiny, compiled: not measured (no C compiler)" in capsys.readouterr().err


def test_rows_fill_the_table_of_the_plan(tmp_path, monkeypatch):
    """The two benchmarks together measure every rule of resources/throughput.json once."""
    folder = _gpu.write_photographs(tmp_path / "photographs", 4, SIZE)
    monkeypatch.setattr(cuda_programs, "NAMES", ("vit_tiny_patch16_224",))
    monkeypatch.setattr(cuda_programs, "PRECISIONS", ("float32",))
    monkeypatch.setattr(_gpu, "WORKERS", 0)
    modules = {
        "cuda_programs": [
            *cuda_programs.transformer(folder, CPU, SMALL, 4, 2),
            *cuda_programs.trained_models(folder, CPU, SMALL, (4, 4), batch_size=2),
        ],
        "cuda_training": list(cuda_training.trainings(folder, CPU, SMALL, steps=4, warm_up=1)),
    }
    for row in modules["cuda_training"]:
        assert row.value >= 0
        # The time that a step waits for data is compared with the time of the whole step.
        assert row.reference is None or row.value <= row.reference
    path = tmp_path / "gpu.json"
    for name, rows in modules.items():
        write_json(path, name, rows)
    content = json.loads(path.read_text())
    content["machine"]["gpu"] = "a GPU"
    # A row that is the difference of two short times may be negative by chance.
    for row in content["rows"]:
        row["value"] = abs(row["value"]) + 1e-9
    old = json.loads((REPOSITORY / "resources" / "throughput.json").read_text())
    filled = measured_throughput(content, old["rules"])
    assert filled["rules"].keys() == old["rules"].keys()


def test_a_step_from_memory():
    assert cuda_training.deeplab(CPU, images=2, side=33, depth=10).ratio > 0


def test_numbers_of_other_modules_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "numbers.json"
    write_json(path, "crf", [Row(what="old", value=1, unit="s")])
    write_json(path, "cuda_training", [Row(what="kept", value=2, unit="s")])
    rows = [Row(what="new", value=3, unit="s", reference=2, against="that", at_most=1)]
    module = mock.Mock(rows=lambda: rows)
    monkeypatch.setattr("tests.bench.__main__.importlib.import_module", lambda name: module)
    assert main(["crf", "--json", str(path)]) == 1  # because the ratio 3 / 2 is above `at_most`
    content = json.loads(path.read_text())
    assert [(row["module"], row["what"], row["holds"]) for row in content["rows"]] == [
        ("cuda_training", "kept", True),
        ("crf", "new", False),
    ]
    assert content["machine"]["torch"] == torch.__version__
