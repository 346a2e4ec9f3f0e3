import json

import numpy as np
import pytest
import torch
from PIL import Image

from workflow_scripts import embed_masks
from workflow_scripts.maskdistill.discovery.vit import Backbone
from workflow_scripts.maskdistill.files import (
    cluster_files,
    image_sizes,
    images,
    masks,
    provenance,
    shards,
)

SIZES = {5: (24, 32), 3: (40, 30), 9: (24, 32)}


def ellipse(size, shift):
    y, x = np.mgrid[: size[0], : size[1]] / np.array(size)[:, None, None] - 0.5
    return (x + shift) ** 2 + y**2 < 0.1


MASKS = {(5, 0): 0.0, (5, 1): 0.3, (3, 0): 0.1, (9, 0): -0.2}


@pytest.fixture
def call(tmp_path, tiny_backbone, write_image, write_manifest):
    for image_id, size in SIZES.items():
        write_image(tmp_path / "root" / f"{image_id}.png", *size, seed=image_id)
    manifest = write_manifest(
        tmp_path / "images.parquet",
        {i: (f"{i}.png", *size) for i, size in SIZES.items()} | {4: ("4.png", 8, 8)},
    )
    rows = [{"image_id": 4, "mask_id": 0, "status": "empty mask"}]
    for (image_id, mask_id), shift in MASKS.items():
        encoded = masks.encode(ellipse(SIZES[image_id], shift))._asdict()
        rows.append({"image_id": image_id, "mask_id": mask_id, "status": "ok", **encoded})
    shards.write_table(tmp_path / "masks.parquet", "masks", rows, {})

    def run(kind, batch_size=2, side=24):
        settings = {
            "features": tiny_backbone,
            "embedding": {"backbone": None, "input": kind, "crop_side": side},
        }
        options = [f"--settings={json.dumps(settings)}", f"--root={tmp_path / 'root'}"]
        options += [f"--images={manifest}", f"--masks={tmp_path / 'masks.parquet'}"]
        options += ["--device=cpu", f"--batch-size={batch_size}", f"--output={tmp_path / 'out'}"]
        assert embed_masks.main(options) == 0
        keys, vectors = cluster_files.read_embeddings([tmp_path / "out"])
        return dict(zip(keys, vectors, strict=True))

    return run


@pytest.fixture
def backbone(tiny_backbone):
    return Backbone(
        tiny_backbone["backbone"],
        options=tiny_backbone["backbone_options"],
        weights=tiny_backbone["weights"],
    )


def cls(backbone, pixels):
    with torch.inference_mode():
        return backbone.model.forward_features(pixels)[0, 0].numpy()


def test_masked_images(call, backbone, tmp_path, tiny_backbone):
    found = call("masked_image")
    assert set(found) == set(MASKS)
    digest = provenance.file_digest(tiny_backbone["weights"])
    assert shards.read_metadata(tmp_path / "out")["weights"] == digest
    for (image_id, mask_id), shift in MASKS.items():
        size = image_sizes.resized_size(*SIZES[image_id], shorter_side=32)
        image = images.read_image(tmp_path / "root" / f"{image_id}.png")
        pixels = backbone.prepare([image_sizes.resize(image, size)])
        mask = ellipse(SIZES[image_id], shift)
        for y, x in np.ndindex(*size):
            row, column = (
                (2 * i + 1) * n // (2 * m) for i, n, m in zip((y, x), mask.shape, size, strict=True)
            )
            if not mask[row, column]:
                pixels[:, :, y, x] = 0
        np.testing.assert_allclose(
            found[image_id, mask_id], cls(backbone, pixels), rtol=1e-3, atol=1e-4
        )


def test_box_crops(call, backbone, tmp_path):
    found = call("box_crop")
    assert set(found) == set(MASKS)
    for (image_id, mask_id), shift in MASKS.items():
        rows, columns = np.nonzero(ellipse(SIZES[image_id], shift))
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        image = Image.open(tmp_path / "root" / f"{image_id}.png")
        crop = image.resize((24, 24), Image.Resampling.BICUBIC, box=box)
        expected = cls(backbone, backbone.prepare([np.asarray(crop)]))
        np.testing.assert_allclose(found[image_id, mask_id], expected, rtol=1e-3, atol=1e-4)


def test_box_crops_of_their_own_size(call, backbone, tmp_path):
    found = call("box_crop", side=None)
    for (image_id, mask_id), shift in MASKS.items():
        rows, columns = np.nonzero(ellipse(SIZES[image_id], shift))
        image = images.read_image(tmp_path / "root" / f"{image_id}.png")
        crop = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        expected = cls(backbone, backbone.prepare([crop]))
        np.testing.assert_allclose(found[image_id, mask_id], expected, rtol=1e-3, atol=1e-4)


def test_masked_crops(call, backbone, tmp_path):
    """With `masked_crop`, the background of a box crop is set to 0 after normalisation."""
    found = call("masked_crop")
    assert set(found) == set(MASKS)
    for (image_id, mask_id), shift in MASKS.items():
        mask = ellipse(SIZES[image_id], shift)
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        image = Image.open(tmp_path / "root" / f"{image_id}.png")
        crop = image.resize((24, 24), Image.Resampling.BICUBIC, box=box)
        pixels = backbone.prepare([np.asarray(crop)])
        cropped = mask[box[1] : box[3], box[0] : box[2]]
        for y, x in np.ndindex(24, 24):
            row, column = (
                (2 * i + 1) * n // 48 for i, n in zip((y, x), cropped.shape, strict=True)
            )
            if not cropped[row, column]:
                pixels[:, :, y, x] = 0
        np.testing.assert_allclose(
            found[image_id, mask_id], cls(backbone, pixels), rtol=1e-3, atol=1e-4
        )
    boxes = call("box_crop")
    assert all(np.abs(found[key] - boxes[key]).max() > 1e-3 for key in found)


@pytest.mark.parametrize("kind", ["masked_image", "box_crop", "masked_crop"])
def test_batch_size_changes_nothing(call, kind):
    one, many = call(kind, 1), call(kind, 100)
    assert list(one) == list(many)
    for key, vector in one.items():
        np.testing.assert_allclose(vector, many[key], rtol=1e-4, atol=1e-5)


def test_a_shard_without_masks(call, tmp_path):
    rows = [{"image_id": 4, "mask_id": 0, "status": "empty mask"}]
    shards.write_table(tmp_path / "masks.parquet", "masks", rows, {})
    assert call("masked_image") == {}
    table = shards.read_table([tmp_path / "out"])
    assert table.schema.field("embedding").type.list_size == 48
