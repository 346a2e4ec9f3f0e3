import numpy as np
import pytest
from PIL import Image

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, provenance, shards
from workflow_scripts.maskdistill.files.atomic import atomic_folder


def test_label_maps(tree):
    text = describe(tree / "seed-0" / "val" / "label_maps")
    assert "1 images hold background only" in text
    images, share = row_of(text, "1")[:2]
    assert images == "1"
    assert share == f"{19 * 28 / (3 * 40 * 60):.2%}"
    sampled = describe(tree / "seed-0" / "val" / "label_maps", sample=2)
    assert "(of a sample of 2, evenly spread)" in sampled


def test_label_maps_as_files(tmp_path):
    labels = np.zeros((4, 5), np.uint8)
    labels[0] = 3
    labels[1] = label_maps.IGNORE
    with atomic_folder(tmp_path / "label_maps", provenance.record("png_label_maps", {})) as folder:
        for name in ("a", "b/c"):
            path = folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(label_maps.encode_png(labels))
    assert "1 label map as PNG" in describe(tmp_path / "label_maps" / "a.png")
    text = describe(tmp_path / "label_maps")
    assert row_of(text, ".png")[0] == "2"
    assert row_of(text, "3")[:2] == ["2", "25.00%"]
    assert row_of(text, "ignore")[:2] == ["2", "25.00%"]
    (tmp_path / "label_maps" / "a.png").write_bytes(label_maps.encode_png(labels)[:60])
    with pytest.raises(InputError, match=r"a\.png: damaged, not a readable image"):
        describe(tmp_path / "label_maps")


def test_a_damaged_label_map_in_a_shard(copied):
    path = copied / "seed-0" / "val" / "label_maps" / "0000.parquet"
    rows = list(shards.read_rows(path))
    rows[1]["image"]["bytes"] = rows[1]["image"]["bytes"][:50]
    shards.write_table(path, "label_maps", rows, shards.read_metadata(path))
    with pytest.raises(InputError, match=r"0000\.parquet: damaged, the label map of"):
        describe(path)


def test_pictures(tmp_path):
    (tmp_path / "sheets").mkdir()
    for i, name in enumerate(("a", "b")):
        Image.new("RGB", (7 + i, 5)).save(tmp_path / "sheets" / f"{name}.png")
    text = describe(tmp_path / "sheets", check=True)
    assert "2 images, PNG RGB" in text
    assert row_of(text, "width")[:2] == ["2", "7"]
    Image.new("RGB", (7, 5)).save(tmp_path / "a.jpg")
    assert "image, JPEG RGB: 5 x 7 px" in describe(tmp_path / "a.jpg")


def test_a_changed_byte_of_a_png_is_found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(noise).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: damaged, not a readable image"):
        describe(path, check=True)
