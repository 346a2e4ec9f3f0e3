"""The formats by name; each is a module with a function `write`."""

from collections.abc import Callable
from pathlib import Path

from workflow_scripts.maskdistill.exports import (
    coco,
    fiftyone,
    huggingface,
    label_studio,
    voc,
    yolo,
)
from workflow_scripts.maskdistill.exports.content import Content

FORMATS: dict[str, Callable[[Content, Path], None]] = {
    "coco": coco.write,
    "voc": voc.write,
    "fiftyone": fiftyone.write,
    "label_studio": label_studio.write,
    "huggingface": huggingface.write,
    "yolo": yolo.write,
}
