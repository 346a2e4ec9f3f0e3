"""Galleries that several test modules use."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import results_tree
from workflow_scripts import write_gallery
from workflow_scripts.maskdistill.files import masks, provenance, shards
from workflow_scripts.maskdistill.repository import REPOSITORY


@pytest.fixture(scope="session")
def gallery(results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gallery") / "gallery"
    assert write_gallery.main(results_tree.gallery_options(results, folder)) == 0
    return folder


def write_many(folder: Path, count: int, shard_count: int) -> list[str]:
    """Write a dataset of `count` hard links to one tiny image; returns the gallery's options."""
    (folder / "data").mkdir(parents=True)
    Image.new("RGB", (16, 8), (90, 120, 30)).save(folder / "data" / "first.png")
    mask = np.zeros((8, 16), bool)
    mask[2:6, 3:9] = True
    encoded = masks.encode(mask)._asdict()
    per_shard = count // shard_count
    for shard in range(shard_count):
        rows = {"images": [], "masks": [], "candidates": [], "assignments": []}
        for i in range(shard * per_shard, (shard + 1) * per_shard):
            name = f"{i:05d}.png"
            (folder / "data" / name).hardlink_to(folder / "data" / "first.png")
            manifest = {"image_id": i, "file_name": name, "height": 8, "width": 16}
            rows["images"].append(manifest | {"shard": shard, "status": "ok"})
            rows["masks"].append({"image_id": i, "mask_id": 0, **encoded, "status": "ok"})
            rows["assignments"].append(
                {"image_id": i, "mask_id": 0, "cluster": 1 + i % 3, "distance": 0.5}
            )
            score = (i % 100) / 100
            candidate = {"image_id": i, "candidate_id": 0, "cluster": 1 + i % 3, "score": score}
            rows["candidates"].append(candidate | encoded)
        for stage, found in rows.items():
            path = folder / stage / f"{shard:04d}.parquet"
            shards.write_table(path, stage, found, provenance.record(stage, {}))
    curation = {"classes": None, "names": ["cluster_001", "cluster_002", "cluster_003"]}
    settings = {"clustering": {"clusters": 3}, "curation": curation, "dataset": {}}
    options = [f"--settings={json.dumps(settings)}", "--dataset=many"]
    options += [f"--root={folder / 'data'}", f"--output={folder / 'gallery'}", "--workers=2"]
    for stage in rows:
        options += [f"--{stage}", "train", *map(str, sorted((folder / stage).iterdir()))]
    return options


PEAK = """
import resource, sys
from workflow_scripts import write_gallery
write_gallery.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Path:
    """Galleries of 10,000 images in 20 shards (`all`) and of 500 images in one shard (`one`)."""
    folder = tmp_path_factory.mktemp("many")
    for name, count, shard_count in (("all", 10_000, 20), ("one", 500, 1)):
        options = write_many(folder / name, count, shard_count)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *options],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        (folder / name / "peak").write_text(done.stdout)
    return folder
