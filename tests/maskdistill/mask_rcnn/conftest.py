"""A data set that a Mask R-CNN learns within a minute, for the tests of every engine."""

import json

import numpy as np
import pytest
from PIL import Image

from workflow_scripts.maskdistill import masks

COLOURS = {1: np.array([180, 180, 180]), 2: np.array([180, 0, 0])}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Twelve images of a white square (cluster 1) or red disc (cluster 2); COCO file and root."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": c, "name": f"cluster_{c:03d}"} for c in (1, 2)]
    rows, columns = np.mgrid[:48, :56]
    for number in range(1, 13):
        y, x, radius = rng.uniform(14, 34), rng.uniform(14, 42), rng.uniform(8, 12)
        cluster = 1 + number % 2
        dy, dx = np.abs(rows - y), np.abs(columns - x)
        mask = (np.maximum(dy, dx) if cluster == 1 else np.hypot(dy, dx)) < radius
        image = rng.integers(0, 60, (48, 56, 3)) + mask[..., None] * COLOURS[cluster]
        Image.fromarray(image.astype(np.uint8)).save(root / f"{number}.png")
        encoded = masks.encode(mask)
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": 48, "width": 56}
        )
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": cluster,
                "segmentation": {"size": [48, 56], "counts": encoded.rle_counts.decode()},
                "bbox": [encoded.x, encoded.y, encoded.box_width, encoded.box_height],
                "area": encoded.area,
                "iscrowd": 0,
            }
        )
    path = root / "pseudo_labels.json"
    path.write_text(json.dumps(content))
    return path, root
