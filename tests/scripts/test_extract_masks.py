import functools
import json

import pytest
import torch

from workflow_scripts import extract_features, extract_masks, make_masks
from workflow_scripts.maskdistill.discovery import affinity
from workflow_scripts.maskdistill.discovery.features import feature_rows, load_backbone
from workflow_scripts.maskdistill.discovery.initial_masks import mask_rows
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.settings.sections.features import FeatureSettings
from workflow_scripts.maskdistill.settings.sections.masks import MaskSettings

MASKS = {
    "top_k": 0.4,
    "heads": None,
    "center_keys": True,
    "source_component": False,
    "per_image": 2,
    "next_source": 0.1,
}


@pytest.fixture
def folder(tmp_path, write_image, write_manifest):
    sizes = {5: (24, 32), 3: (40, 30), 9: (24, 32), 1: (100, 50)}
    for image_id, size in sizes.items():
        write_image(tmp_path / f"{image_id}.png", *size, seed=image_id)
    (tmp_path / "2.png").write_bytes(b"no image any more")
    entries = {i: (f"{i}.png", *size) for i, size in {**sizes, 2: (24, 32)}.items()}
    entries[7] = ("bad.png", None, None, "empty file (0 bytes)")
    write_manifest(tmp_path / "images", entries)
    return tmp_path


BEYOND = {
    "center_keys": "auto",
    "scores": "diffusion",
    "border_prior": 1,
    "discriminant": True,
    "cut": 0.4,
    "enlargement": "bilinear",
    "refinement": "crf",
    "refinement_side": 20,
    "least_share": 0.05,
}


@pytest.mark.parametrize(("batch_size", "beyond"), [(1, {}), (3, {}), (1, BEYOND), (3, BEYOND)])
def test_the_masks_are_those_of_stored_features(folder, tiny_backbone, batch_size, beyond, capsys):
    settings = {"features": tiny_backbone, "masks": MASKS | beyond}
    options = [f"--settings={json.dumps(settings)}", f"--images={folder / 'images'}"]
    runtime = [f"--root={folder}", "--device=cpu", "--workers=2", f"--batch-size={batch_size}"]
    features, stored, direct = (folder / f"{name}.parquet" for name in ("f", "stored", "direct"))
    assert extract_features.main([*options, *runtime, f"--output={features}"]) == 0
    making = [*options, f"--root={folder}", f"--features={features}"]
    assert make_masks.main([*making, f"--output={stored}"]) == 0
    features.unlink()
    capsys.readouterr()
    assert extract_masks.main([*options, *runtime, f"--output={direct}"]) == 0
    expected, found = (list(shards.read_rows(path)) for path in (stored, direct))
    assert found == expected
    used = sum(row["status"] == shards.OK for row in found)
    assert f"masks: {used} used; not used: " in capsys.readouterr().out
    assert {row["image_id"] for row in found} == {1, 2, 3, 5, 9}
    assert next(row["status"] for row in found if row["image_id"] == 2) != shards.OK
    digest = provenance.file_digest(tiny_backbone["weights"])
    for path in (direct, stored):
        assert shards.read_metadata(path)["weights"] == digest
    assert provenance.content_digest(direct) == provenance.content_digest(stored)


def test_masks_of_features_that_stay_where_they_are_computed(folder, tiny_backbone):
    """Features may stay tensors on their device, as on a GPU, and give the same masks."""
    settings = FeatureSettings(**tiny_backbone)
    backbone = load_backbone(settings, "cpu")
    listed = shards.read_usable(folder / "images")
    find = functools.partial(affinity.object_masks, settings=MaskSettings(**MASKS))

    def masks(fetch):
        rows = feature_rows(
            backbone, settings, listed, folder, batch_size=2, workers=1, fetch=fetch
        )
        for row in rows:
            assert row["status"] != shards.OK or torch.is_tensor(row["keys"]) != fetch
            yield from mask_rows(row, (24, 32), backbone.patch_size, find)

    found, expected = list(masks(fetch=False)), list(masks(fetch=True))
    # `quality` is compared with a tolerance, because it depends on the order of sums.
    qualities = [[row.pop("quality", 0) for row in rows] for rows in (found, expected)]
    assert found == expected
    assert qualities[0] == pytest.approx(qualities[1], rel=1e-4)
