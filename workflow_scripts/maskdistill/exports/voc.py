"""PASCAL VOC's folders for segmentation, which CVAT imports as "Segmentation mask".

SegmentationClass has the final label maps. SegmentationObject has the connected regions of these
label maps, so that both folders agree in every pixel. Objects of one class that touch each other
are one region.
"""

from pathlib import Path

import numpy as np
from scipy import ndimage

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.exports.content import Content, copy_image, write_label_map
from workflow_scripts.maskdistill.files import label_maps


def write(content: Content, folder: Path) -> None:
    """Write images, label maps, the list of the split and labelmap.txt.

    Raises:
        InputError: there are more classes than colours.
    """
    if len(content.names) >= label_maps.IGNORE:
        raise InputError(
            f"export voc: {len(content.names)} classes, but VOC has 254 colours; leave the format "
            "out of exports.formats, or merge clusters"
        )
    listed = []
    for picture in content.pictures():
        png = picture.with_suffix(".png")
        copy_image(content.root / picture.file_name, folder / "JPEGImages" / picture.name)
        write_label_map(picture.labels, folder / "SegmentationClass" / png)
        write_label_map(regions(picture.labels), folder / "SegmentationObject" / png)
        listed.append(picture.with_suffix(""))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    text = "".join(f"{name}\n" for name in listed)
    (lists / f"{content.split}.txt").write_text(text, encoding="utf-8")
    (folder / "labelmap.txt").write_text(label_maps.legend(content.names), encoding="utf-8")


def regions(labels: np.ndarray) -> np.ndarray:
    """Number the connected regions of all labels, the largest region first.

    If there are more than 254 regions, the smallest ones of each label share a number.

    Args:
        labels: H x W, 0 background, 255 ignore.

    Returns:
        H x W uint8: 0 background, 1..254 regions, 255 what `labels` ignores.
    """
    numbered = np.zeros(labels.shape, dtype=np.int64)
    label_of = [0]
    for label in np.unique(labels):
        if label not in (0, label_maps.IGNORE):
            found, number = ndimage.label(labels == label, structure=np.ones((3, 3)))
            numbered[found > 0] = found[found > 0] + len(label_of) - 1
            label_of += [label] * number
    order = np.argsort(-np.bincount(numbered.ravel(), minlength=len(label_of))[1:], kind="stable")
    alone = len(order)
    if alone >= label_maps.IGNORE:
        alone = label_maps.IGNORE - 1 - len(set(label_of[1:]))
    rank = np.zeros(len(label_of), dtype=np.int64)
    rank[1 + order[:alone]] = 1 + np.arange(alone)
    shared = 1 + order[alone:]
    rank[shared] = 1 + alone + np.unique(np.array(label_of)[shared], return_inverse=True)[1]
    result = rank[numbered].astype(np.uint8)
    result[labels == label_maps.IGNORE] = label_maps.IGNORE
    return result
