import numpy as np
import pytest

from workflow_scripts.maskdistill import streaming
from workflow_scripts.maskdistill.discovery.features import feature_rows, load_backbone
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.files import image_sizes, images
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings

SIZES = {5: (24, 32), 3: (40, 30), 9: (24, 32), 1: (100, 50)}


@pytest.fixture
def rows_of(tmp_path, tiny_backbone, write_image):
    listed = []
    for image_id, (height, width) in SIZES.items():
        write_image(tmp_path / f"{image_id}.png", height, width, seed=image_id)
        row = {"image_id": image_id, "file_name": f"{image_id}.png"}
        listed.append(row | {"height": height, "width": width})
    backbone = load_backbone(FeatureSettings(**tiny_backbone), "cpu")

    def call(with_tokens=False, **changes):
        options = {"batch_size": 2, "workers": 2, "with_tokens": with_tokens}
        settings = FeatureSettings(**tiny_backbone | changes)
        rows = feature_rows(backbone, settings, listed, tmp_path, **options)
        return backbone, {row["image_id"]: row for row in rows}

    return call


@pytest.mark.parametrize("image_id", SIZES)
def test_rows_are_those_of_the_image_alone(rows_of, tmp_path, image_id):
    backbone, rows = rows_of()
    assert set(rows) == set(SIZES)
    image = images.read_image(tmp_path / f"{image_id}.png")
    image = image_sizes.resize(image, image_sizes.resized_size(*SIZES[image_id], shorter_side=32))
    affinity, keys = backbone.last_block_features(backbone.prepare([image]))
    row = rows[image_id]
    assert (row["resized_height"], row["resized_width"]) == image.shape[:2]
    assert row["grid_height"] * row["grid_width"] == keys.shape[1]
    np.testing.assert_allclose(row["keys"], keys.numpy().ravel(), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(row["cls_affinity"], affinity.numpy().ravel(), rtol=1e-4, atol=1e-5)


def test_tokens_are_stored_if_they_are_asked_for(rows_of, tmp_path):
    backbone, rows = rows_of(with_tokens=True)
    without = rows_of()[1]
    for image_id, row in rows.items():
        image = images.read_image(tmp_path / f"{image_id}.png")
        image = image_sizes.resize(image, (row["resized_height"], row["resized_width"]))
        pixels = backbone.prepare([image])
        _, _, tokens = backbone.last_block_features(pixels, with_tokens=True)
        assert row["tokens"].dtype == np.float16
        np.testing.assert_allclose(row.pop("tokens"), tokens.ravel(), rtol=2e-3, atol=2e-3)
        for name, value in without[image_id].items():
            np.testing.assert_array_equal(row.pop(name), value)
        assert not row


def test_the_longer_side_is_bounded(rows_of):
    _, rows = rows_of(longer_side=48)
    assert (rows[1]["resized_height"], rows[1]["resized_width"]) == (48, 24)


def test_an_unreadable_image_keeps_a_row(rows_of, tmp_path):
    (tmp_path / "9.png").write_bytes(b"")
    _, rows = rows_of()
    assert set(rows) == set(SIZES)
    assert rows[9] == {"image_id": 9, "status": "empty file (0 bytes)"}
    assert rows[5]["status"] == "ok"


def test_pixels_of_a_pass_do_not_grow_with_the_batch_size(rows_of, monkeypatch):
    """Two images are 32 x 43 pixels after resizing and share a pass, unless the bound is lower."""
    seen = []
    prepare = Backbone.prepare

    def note(backbone, pictures):
        seen.append([picture.shape[:2] for picture in pictures])
        return prepare(backbone, pictures)

    monkeypatch.setattr(Backbone, "prepare", note)
    _, expected = rows_of()
    assert sorted(map(len, seen)) == [1, 1, 2]
    seen.clear()
    monkeypatch.setattr(streaming, "PIXELS_PER_PASS", 2 * 32 * 43 - 1)
    _, rows = rows_of()
    assert [len(batch) for batch in seen] == [1] * 4
    for image_id, row in rows.items():
        np.testing.assert_allclose(row["keys"], expected[image_id]["keys"], rtol=2e-3, atol=1e-4)
