"""Images of the demo dataset as input files of the stages, its settings, and runs of programs."""

import contextlib
import importlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from workflow_scripts.maskdistill.demo import scenes
from workflow_scripts.maskdistill.files import label_maps, shards
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings.layers import merge, read_yaml

SEED = 9001  # other images than those on which the demo's settings were chosen
CLUSTERS = 6


def settings() -> dict:
    """The settings of the demo, with absolute paths of weights."""
    defaults = read_yaml(REPOSITORY / "config" / "default.yaml")["defaults"]
    found = merge(defaults, read_yaml(REPOSITORY / "config" / "datasets" / "demo.yaml"))
    for section in found.values():
        if isinstance(section, dict) and section.get("weights"):
            section["weights"] = str(REPOSITORY / section["weights"])
    return found


def pictures(count: int) -> list[np.ndarray]:
    """Images of the demo dataset, H x W x 3 uint8, of several sizes."""
    return [scenes.scene(SEED, "val", number).image for number in range(count)]


def write(folder: Path, count: int) -> Path:
    """Write images, a manifest `images.parquet` and label maps `label_maps.parquet`."""
    rows, labels = [], []
    for number in range(count):
        drawn = scenes.scene(SEED, "val", number)
        name = f"{number}.png"
        Image.fromarray(drawn.image).save(folder / name)
        height, width = drawn.classes.shape
        size = {"height": height, "width": width}
        rows.append({"image_id": number, "file_name": name, **size, "shard": 0, "status": "ok"})
        labels.append(label_maps.row(number, name, drawn.classes))
    shards.write_table(folder / "images.parquet", "images", rows, {})
    shards.write_table(folder / "label_maps.parquet", "label_maps", labels, {})
    return folder


def write_pseudo_labels(folder: Path, count: int) -> Path:
    """Write the objects in the images of `write` as a COCO dataset file."""
    from workflow_scripts.maskdistill.files import masks

    content = {"images": [], "annotations": [], "categories": []}
    for cluster in range(1, CLUSTERS + 1):
        content["categories"].append({"id": cluster, "name": f"cluster_{cluster:03d}"})
    for number in range(count):
        drawn = scenes.scene(SEED, "val", number)
        height, width = drawn.classes.shape
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        for thing in range(1, int(drawn.instances.max()) + 1):
            mask = drawn.instances == thing
            if not mask.any():
                continue
            encoded = masks.encode(mask)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": int(drawn.classes[mask][0]),
                    "segmentation": {
                        "size": [height, width],
                        "counts": encoded.rle_counts.decode(),
                    },
                    "bbox": [encoded.x, encoded.y, encoded.box_width, encoded.box_height],
                    "area": encoded.area,
                    "iscrowd": 0,
                }
            )
    path = folder / "pseudo_labels.json"
    path.write_text(json.dumps(content))
    return path


def run(program: str, settings: dict, **options: object) -> None:
    """Run a program of the workflow in this process.

    Args:
        options: options of the program, with underscores in names; True for one without a value.
    """
    arguments = ["--settings", json.dumps(settings)]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with contextlib.redirect_stderr(io.StringIO()):
        assert importlib.import_module(f"workflow_scripts.{program}").main(arguments) == 0
