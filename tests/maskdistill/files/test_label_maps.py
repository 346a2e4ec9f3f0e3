import io

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards


def test_the_palette_is_that_of_pascal_voc():
    # From the development kit's documentation.
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for label, colour in known.items():
        assert tuple(label_maps.PALETTE[label].tolist()) == colour
    assert len(np.unique(label_maps.PALETTE, axis=0)) == 256


def test_8_bit_maps_are_palette_images():
    labels = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    data = label_maps.encode_png(labels)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P"
    assert image.size == (14, 9)
    np.testing.assert_array_equal(np.asarray(image), labels)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), label_maps.PALETTE[labels])
    decoded = label_maps.decode_png(data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, labels)


@pytest.mark.parametrize("largest", [0, 1, 3, 15])
def test_few_labels_survive(largest):
    """Pillow may pack few colours into fewer bits."""
    labels = np.full((3, 5), largest, dtype=np.uint8)
    np.testing.assert_array_equal(label_maps.decode_png(label_maps.encode_png(labels)), labels)


def test_16_bit_maps():
    labels = np.random.default_rng(0).integers(0, 65536, (9, 14), dtype=np.uint16)
    data = label_maps.encode_png(labels)
    assert Image.open(io.BytesIO(data)).mode.startswith("I;16")
    decoded = label_maps.decode_png(data)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, labels)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="int64"):
        label_maps.encode_png(np.zeros((2, 2), dtype=np.int64))
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, format="PNG")
    with pytest.raises(ValueError, match="RGB"):
        label_maps.decode_png(buffer.getvalue())


def test_read_png_names_the_file(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(InputError, match=r"a\.png: no such label map"):
        label_maps.read_png(path)
    labels = np.random.default_rng(0).integers(0, 200, (40, 40), dtype=np.uint8)
    data = label_maps.encode_png(labels)
    for bad in (b"", b"text", data[: len(data) // 2]):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"a\.png: not a label map"):
            label_maps.read_png(path)
    path.write_bytes(data)
    np.testing.assert_array_equal(label_maps.read_png(path), labels)


def test_clusters_and_ignore_fit_the_type():
    for clusters in (1, 254, 255, 1000):
        labels = np.zeros(3, label_maps.dtype(clusters))
        labels[0] = clusters
        labels[1] = label_maps.ignore_value(labels)
        assert labels.tolist() == [clusters, 255 if clusters <= 254 else 65535, 0]


def test_later_layers_cover_earlier_ones():
    first, second = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    first[:3, :3], second[1:, 2:] = True, True
    labels = label_maps.paint((4, 6), [(first, 3), (second, 1)], 3)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.where(second, 1, np.where(first, 3, 0)))
    swapped = label_maps.paint((4, 6), [(second, 1), (first, 3)], 3)
    np.testing.assert_array_equal(swapped, np.where(first, 3, np.where(second, 1, 0)))
    assert not label_maps.paint((4, 6), [], 3).any()
    assert label_maps.paint((4, 6), [(first, 300)], 300).max() == 300


def test_rows_go_through_a_shard(tmp_path):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    row = label_maps.row(5, "folder.v2/photo.a.jpeg", labels)
    assert row["image"]["path"] == "folder.v2/photo.a.png"
    for stage in ("label_maps", "predictions"):
        shards.write_table(tmp_path / "a.parquet", stage, [row], {})
        ((image_id, file_name, read),) = label_maps.read_shard(tmp_path / "a.parquet")
        assert (image_id, file_name) == (5, "folder.v2/photo.a.jpeg")
        np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_size_is_read_from_the_header(dtype):
    data = label_maps.encode_png(np.zeros((7, 900), dtype))
    assert label_maps.png_size(data) == (7, 900)
