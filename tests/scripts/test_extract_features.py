import json

import numpy as np
import pytest
import torch

from workflow_scripts import extract_features
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import image_sizes, images, provenance, shards
from workflow_scripts.maskdistill.torch_tools import device

SIZES = {5: (24, 32), 3: (40, 30), 9: (24, 32), 1: (100, 50), 8: (24, 32)}


@pytest.fixture
def call(tmp_path, tiny_backbone, write_image, write_manifest):
    for image_id, size in SIZES.items():
        write_image(tmp_path / "root" / f"{image_id}.png", *size, seed=image_id)
    entries = {i: (f"{i}.png", *size) for i, size in SIZES.items()}
    entries[7] = ("bad.png", None, None, "empty file (0 bytes)")

    def run(batch_size=2, workers=2, **changes):
        manifest = write_manifest(tmp_path / "images.parquet", entries)
        output = tmp_path / f"{batch_size}-{workers}.parquet"
        settings = {"features": {**tiny_backbone, **changes}}
        options = [f"--settings={json.dumps(settings)}", f"--root={tmp_path / 'root'}"]
        options += ["--device=cpu", f"--workers={workers}", f"--batch-size={batch_size}"]
        assert extract_features.main([*options, f"--images={manifest}", f"--output={output}"]) == 0
        return output

    return run


def test_features_are_those_of_the_backbone(call, tmp_path, tiny_backbone):
    output = call()
    rows = {row["image_id"]: row for row in shards.read_rows(output)}
    assert set(rows) == set(SIZES)
    backbone = Backbone(
        tiny_backbone["backbone"],
        options=tiny_backbone["backbone_options"],
        weights=tiny_backbone["weights"],
    )
    for image_id, row in rows.items():
        size = image_sizes.resized_size(*SIZES[image_id], shorter_side=32)
        assert (row["resized_height"], row["resized_width"]) == size
        grid = tuple(-(-n // 8) for n in size)
        assert (row["grid_height"], row["grid_width"]) == grid
        image = images.read_image(tmp_path / "root" / f"{image_id}.png")
        pixels = backbone.prepare([image_sizes.resize(image, size)])
        affinity, keys = (tensor[0].numpy() for tensor in backbone.last_block_features(pixels))
        assert keys.shape == (grid[0] * grid[1], 48)
        assert row["keys"].dtype == np.float16
        np.testing.assert_allclose(row["keys"].reshape(keys.shape), keys, rtol=2e-3, atol=1e-4)
        stored = row["cls_affinity"].reshape(3, -1)
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, affinity, rtol=1e-4, atol=1e-5)
        assert row["status"] == "ok"
    metadata = shards.read_metadata(output)
    assert metadata["patch_size"] == 8
    assert metadata["weights"] == provenance.file_digest(tiny_backbone["weights"])


def test_a_precision_that_the_processor_lacks_is_replaced_and_recorded(call, monkeypatch):
    """Keys and provenance are those of float32; where the processor has it, neither is."""
    expected = list(shards.read_rows(call()))
    for has in (False, True):
        monkeypatch.setattr(
            device, "multiplies_in", lambda _, precision, has=has: has or precision == "float32"
        )
        output = call(precision="bfloat16")
        record = provenance.read(output)
        assert record["settings"]["features"]["precision"] == "bfloat16"
        replaced = None if has else {"features.precision": "float32"}
        assert record.get("computed_precision") == replaced
        same = [
            np.array_equal(row["keys"], other["keys"])
            for row, other in zip(shards.read_rows(output), expected, strict=True)
        ]
        assert not any(same) if has else all(same)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 4), (100, 2)])
def test_batch_size_and_workers_change_nothing(call, batch_size, workers):
    first, second = (list(shards.read_rows(call(*x))) for x in ((2, 2), (batch_size, workers)))
    for row, other in zip(first, second, strict=True):
        for name, value in row.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(value, other[name], rtol=2e-3, atol=1e-4)
            else:
                assert value == other[name]


def test_an_image_that_became_unreadable_keeps_a_row(call, tmp_path, capsys):
    (tmp_path / "root" / "9.png").write_bytes(b"")
    rows = {row["image_id"]: row for row in shards.read_rows(call())}
    assert set(rows) == set(SIZES)
    assert rows[9]["status"] == "empty file (0 bytes)"
    assert rows[9]["keys"] is None
    assert "rejected 9.png" in capsys.readouterr().out
    assert rows[5]["status"] == "ok"


def test_errors_write_nothing(call, tmp_path, tiny_backbone):
    with pytest.raises(InputError, match=r"no such file"):
        call(weights=str(tmp_path / "absent.pth"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA GPU"):
            extract_features.main(
                [
                    f"--settings={json.dumps({'features': tiny_backbone})}",
                    "--device=cuda",
                    f"--root={tmp_path}",
                    f"--images={tmp_path / 'images.parquet'}",
                    f"--output={tmp_path / 'new.parquet'}",
                ]
            )
    assert not list(tmp_path.glob("[0-9]*.parquet"))
