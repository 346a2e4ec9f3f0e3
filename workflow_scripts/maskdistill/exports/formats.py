"""The function that writes each format: `write` in the module with the format's name."""

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

WRITERS: dict[str, Callable[[Content, Path], None]] = {
    module.__name__.rpartition(".")[2]: module.write
    for module in (coco, fiftyone, huggingface, label_studio, voc, yolo)
}
