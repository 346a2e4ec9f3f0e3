"""Benchmarks for a GPU, run at small sizes on the CPU only to check that they work."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.bench import cuda
from workflow_scripts.maskdistill.discovery.vit import Backbone

SIDES = (64, 96)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model(cuda.NAME, num_classes=0).state_dict(), path)
    return path


def test_without_a_card_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(cuda.rows()) == []
    assert "no CUDA GPU" in capsys.readouterr().err


def test_rows_of_extraction(weights):
    backbone, other = (Backbone(cuda.NAME, weights=weights) for _ in range(2))
    rows = list(cuda.extraction(backbone, other, SIDES, batch_size=2))
    assert len(rows) == 2 * len(cuda.PRECISIONS)
    assert all(row.value > 0 and row.reference > 0 for row in rows)
    assert len(list(cuda.masks_on_the_gpu(backbone, SIDES, batch_size=2))) == 2


def test_rows_of_programs(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "SIDES", SIDES)
    monkeypatch.setattr(cuda, "BATCH", 2)
    device = torch.device("cpu")
    assert cuda.program(tmp_path, weights, device, images=2).ratio > 0
    assert cuda.deeplab(device, images=2, side=33, depth=10).ratio > 0
