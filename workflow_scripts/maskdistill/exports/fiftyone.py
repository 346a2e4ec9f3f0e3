"""A FiftyOne dataset on disk: `Dataset.from_dir(dataset_dir=…, dataset_type=FiftyOneDataset)`.

Fields: `segmentation` (final label map), `objects` (confident objects, with masks and scores) and
`ground_truth` (if any). metadata.json states no version of FiftyOne. Therefore FiftyOne infers the
fields from the samples, and no release of it has to convert the dataset.
"""

import base64
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.exports.content import (
    Content,
    Picture,
    copy_image,
    write_label_map,
)
from workflow_scripts.maskdistill.files import masks


def write(content: Content, folder: Path) -> None:
    """Write images, label maps, samples.json and metadata.json."""
    with open(folder / "samples.json", "w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for number, picture in enumerate(content.pictures()):
            sample = _sample(picture, content)
            copy_image(content.root / picture.file_name, folder / sample["filepath"])
            for field, labels in _label_maps(picture):
                write_label_map(labels, folder / sample[field]["mask_path"], palette=False)
            text = json.dumps(sample, ensure_ascii=False)
            file.write((",\n" if number else "\n") + text)
        file.write("\n]}\n")
    targets = {"segmentation": _targets(content.names)}
    if content.truth_names is not None:
        targets["ground_truth"] = _targets(content.truth_names)
    metadata = {
        "name": f"{content.dataset}-{content.split}",
        "media_type": "image",
        "info": {"classes": list(content.names), "mask_targets": targets},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def _targets(names: list[str]) -> dict[str, str]:
    return {str(label): name for label, name in enumerate(["background", *names])}


def _sample(picture: Picture, content: Content) -> dict:
    sample = {
        "filepath": f"data/{picture.name}",
        "tags": [content.split],
        "metadata": None,
        "_media_type": "image",
        "image_id": str(picture.image_id),
        "objects": {
            "_cls": "Detections",
            "detections": [
                _detection(row, content.names[row["cluster"] - 1]) for row in picture.objects
            ],
        },
    }
    for field, _ in _label_maps(picture):
        # FiftyOne completes this path, which is relative to the exported folder.
        path = f"fields/{field}/{picture.with_suffix('.png')}"
        sample[field] = {"_cls": "Segmentation", "tags": [], "mask_path": path}
    return sample


def _label_maps(picture: Picture) -> Iterator[tuple[str, np.ndarray]]:
    """Name of the field and its label map."""
    yield "segmentation", picture.labels
    if picture.truth is not None:
        yield "ground_truth", picture.truth


def _detection(row: Mapping, name: str) -> dict:
    """An object; FiftyOne scales the mask to the box, so the box has to fit the mask exactly."""
    mask = masks.decode_row(row)
    x, y, width, height = map(math.floor, masks.encode(mask)[3:7])
    inside = mask[y : y + height, x : x + width]
    return {
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": name,
        "confidence": row["score"],
        "bounding_box": [
            x / row["width"],
            y / row["height"],
            width / row["width"],
            height / row["height"],
        ],
        "mask": _array(inside),
    }


def _array(array: np.ndarray) -> str:
    """An array as FiftyOne stores it: NumPy's format, compressed, in Base64."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode("ascii")
