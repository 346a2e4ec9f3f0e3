import zipfile

import onnx
import pytest
import torch
from safetensors.torch import save_file

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance


def test_models(tmp_path):
    state = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.tensor([1.0, float("nan")])}
    model = {"engine": "torchvision", "settings": {"depth": 10}, "clusters": 6, "seed": 1}
    torch.save({**model, "state_dict": state}, tmp_path / "model.pt")
    text = describe(tmp_path / "model.pt")
    assert "Mask R-CNN, engine torchvision: 2 tensors" in text
    assert "settings.depth  10" in text
    assert row_of(text, "conv") == ["2", "8", "float32", "1"]
    torch.save({"settings": {"depth": 10}, "clusters": 6, "state_dict": state}, tmp_path / "s.pt")
    assert "segmentation model" in describe(tmp_path / "s.pt")
    save_file(state, tmp_path / "weights.safetensors")
    text = describe(tmp_path / "weights.safetensors")
    assert "weights: 2 tensors" in text
    assert provenance.file_digest(tmp_path / "weights.safetensors") in text


def test_checkpoints_of_both_trainings(tmp_path):
    state = {"conv.weight": torch.ones(2, 3)}
    for name in ("model", "network"):
        checkpoint = {"step": 7, name: state, "optimizer": {"state": {}, "param_groups": []}}
        torch.save(checkpoint, tmp_path / "last.pt")
        text = describe(tmp_path / "last.pt")
        assert "checkpoint of a training: 1 tensors" in text
        assert row_of(text, "step") == ["7"]


def test_a_changed_byte_of_a_model_is_found(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(10_000)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.pt: damaged"):
        describe(path)


def test_exported_models(tmp_path):
    class Double(torch.nn.Module):
        def forward(self, image):
            return 2 * image

    program = torch.export.export(Double(), (torch.zeros(1, 4),))
    torch.export.save(program, tmp_path / "model.pt2")
    assert "exported model, torch.export" in describe(tmp_path / "model.pt2")
    graph = onnx.parser.parse_graph(
        "g (float[1, N] image) => (float[1, N] labels) { labels = Neg(image) }"
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    text = describe(tmp_path / "model.onnx")
    assert "exported model, ONNX: 1 nodes" in text
    assert row_of(text, "input image") == ["1", "x", "N", "float"]
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(InputError, match="not a file of this workflow"):
        describe(tmp_path / "other.pt2")
