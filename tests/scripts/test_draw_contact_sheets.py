import json

import numpy as np
import pytest
import yaml
from PIL import Image

from workflow_scripts import draw_contact_sheets
from workflow_scripts.maskdistill.files import cluster_files, masks, shards
from workflow_scripts.maskdistill.files.atomic import FOLDER_MARK
from workflow_scripts.maskdistill.pictures import contact_sheets
from workflow_scripts.maskdistill.settings.cluster_names import read_names

# (image id, mask id) → embedding. Cluster 1 has its centroid at (0, 0), cluster 2 at (4, 0). Of
# cluster 1, the point (1.8, 0) is nearly as close to cluster 2.
POINTS = {(0, 0): (0, 0), (1, 0): (0.5, 0), (2, 0): (1.8, 0), (0, 1): (4, 0), (2, 1): (4.5, 1)}
CLUSTERS = {(0, 0): 1, (1, 0): 1, (2, 0): 1, (0, 1): 2, (2, 1): 2}
COLOURS = {0: (255, 0, 0), 1: (0, 255, 0), 2: (0, 0, 255)}


@pytest.fixture
def folder(tmp_path, write_manifest):
    for number, colour in COLOURS.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{number}.png")
    listed = {n: (f"{n}.png", 20, 30) for n in COLOURS} | {9: ("bad", None, None, "empty file")}
    write_manifest(tmp_path / "images", listed)
    encoded = masks.encode(np.ones((20, 30), bool))._asdict()
    rows = [{"image_id": i, "mask_id": m, **encoded, "status": "ok"} for i, m in POINTS]
    shards.write_table(tmp_path / "masks", "masks", rows, {})
    vectors = [
        {"image_id": i, "mask_id": m, "embedding": np.array(point, np.float32)}
        for (i, m), point in POINTS.items()
    ]
    shards.write_table(tmp_path / "embeddings", "mask_embeddings", vectors, {}, embedding_size=2)
    distances = [0.0] * len(CLUSTERS)
    cluster_files.write_assignments(
        tmp_path / "assignments", list(CLUSTERS), list(CLUSTERS.values()), distances, {}
    )
    centroids = [
        {"cluster": 1, "size": 3, "centroid": np.array([0, 0], np.float32)},
        {"cluster": 2, "size": 2, "centroid": np.array([4, 0], np.float32)},
    ]
    shards.write_table(tmp_path / "centroids", "centroids", centroids, {}, embedding_size=2)
    settings = {"clustering": {"metric": "euclidean", "standardize": False}, "report": {"crops": 2}}
    options = [f"--{name}={tmp_path / name}" for name in
               ("images", "masks", "embeddings", "assignments", "centroids")]  # fmt: skip
    options += [f"--settings={json.dumps(settings)}", f"--root={tmp_path}", "--seed=3"]
    assert draw_contact_sheets.main([*options, f"--output={tmp_path / 'out'}"]) == 0
    return tmp_path


def crop_colours(path, line):
    """Colours of the crops below the heading number `line` of a contact sheet."""
    picture = np.asarray(Image.open(path))
    step = contact_sheets.CROP + contact_sheets.GAP
    top = contact_sheets.HEADING * (2 + line) + line * step
    y = top + contact_sheets.CROP // 2
    centres = [
        picture[y, contact_sheets.GAP + c * step + contact_sheets.CROP // 2]
        for c in range(contact_sheets.COLUMNS)
    ]
    return [tuple(map(int, c)) for c in centres if c.min() < 200]


def test_nearest_masks_stand_above_borderline_ones(folder):
    assert {path.name for path in (folder / "out").iterdir()} == {
        "cluster_001.png",
        "cluster_002.png",
        "names.yaml",
        FOLDER_MARK,
    }
    red, green, blue = COLOURS.values()
    assert crop_colours(folder / "out/cluster_001.png", 0) == [red, green]
    assert crop_colours(folder / "out/cluster_001.png", 1) == [blue, green]
    assert crop_colours(folder / "out/cluster_002.png", 0) == [red, blue]


def test_the_template_is_a_file_of_names(folder):
    names = read_names(folder / "out/names.yaml")
    assert names == {
        3: {
            "assignments": cluster_files.assignments_digest(folder / "assignments"),
            "clusters": {1: "cluster_001", 2: "cluster_002"},
        }
    }
    text = (folder / "out/names.yaml").read_text()
    assert "1: cluster_001  # 3 masks" in text
    assert yaml.safe_load(text)
