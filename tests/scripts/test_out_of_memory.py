"""Programs that run out of memory name a remedy, write no partial file, and keep checkpoints."""

import importlib
import json
import re
from unittest import mock

import pytest
import torch

from tests.scripts.test_train_segmentation import arguments, write_shards
from workflow_scripts import extract_features, train_segmentation
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.segmentation.deeplab import DeepLab

PROGRAMS = sorted((REPOSITORY / "workflow_scripts").glob("*.py"))
# Matches programs that have an option for the device of a network, or keep all embeddings.
ON_A_DEVICE = re.compile(
    r'"--device"|clustering\.fit\('
    r"|cli\.(add_runtime|(images|prediction|segmentation|training)_parser)\("
)
DEVELOPMENT = {"cli", "train_demo_backbone"}  # no rule and no user runs them on a GPU


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_every_program_on_a_device_reports_it():
    found = {path.stem for path in PROGRAMS if ON_A_DEVICE.search(path.read_text())} - DEVELOPMENT
    assert len(found) >= 12
    for name in sorted(found):
        program = importlib.import_module(f"workflow_scripts.{name}")
        with (
            mock.patch.object(program.cli, "Parser", full),
            pytest.raises(InputError, match=r"out of memory .*2\.00 GiB\)") as error,
        ):
            program.main([])
        assert "\n" not in str(error.value)


def test_extraction_writes_no_part_of_a_file(
    tmp_path, tiny_backbone, write_image, write_manifest, monkeypatch
):
    write_image(tmp_path / "1.png")
    manifest = write_manifest(tmp_path / "images.parquet", {1: ("1.png", 24, 32)})
    monkeypatch.setattr(Backbone, "last_block_features", full)
    options = [f"--settings={json.dumps({'features': tiny_backbone})}", f"--root={tmp_path}"]
    options += [f"--images={manifest}", f"--output={tmp_path / 'features.parquet'}"]
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"lower runtime\.batch_size or features\.shorter_side$"):
        extract_features.main([*options, "--device=cpu"])
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_training_keeps_its_checkpoint_and_continues(tmp_path, monkeypatch):
    options = arguments(tmp_path, write_shards(tmp_path))
    forward, calls = DeepLab.forward, []

    def second_epoch_fails(*arguments):
        calls.append(1)
        return full() if len(calls) == 4 else forward(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(DeepLab, "forward", second_epoch_fails)
        with pytest.raises(InputError, match=r"the last checkpoint is kept.*segmentation\.batch"):
            train_segmentation.main(options)
    (checkpoint,) = (tmp_path / "work").glob("*/last.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 2
    assert not (tmp_path / "out").exists()
    assert train_segmentation.main(options) == 0
    continued = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["state_dict"]

    other = tmp_path / "undisturbed"
    other.mkdir()
    assert train_segmentation.main(arguments(other, write_shards(other))) == 0
    undisturbed = torch.load(other / "out" / "model.pt", weights_only=True)["state_dict"]
    for name, value in undisturbed.items():
        assert torch.equal(continued[name], value), name
