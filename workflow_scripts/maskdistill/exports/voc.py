"""PASCAL VOC's folders for segmentation, which CVAT imports as "Segmentation mask".

SegmentationClass holds the final label maps. SegmentationObject holds their connected regions, so
that both agree in every pixel; a region is an object only as far as objects do not touch.
"""

from pathlib import Path

import numpy as np
from scipy import ndimage

from workflow_scripts.maskdistill import label_maps
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.exports.content import Content, copy_image, write_label_map


def write(content: Content, folder: Path) -> None:
    """Write images, label maps, the list of the split and labelmap.txt.

    Raises:
        InputError: more classes than colours.
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
    """Connected regions of one label, numbered by falling size.

    Args:
        labels: H x W, 0 background, 255 ignore.

    Returns:
        H x W uint8: 0 background, 1..254 regions, 255 what `labels` ignores and the smallest
        regions beyond 254.
    """
    numbered = np.zeros(labels.shape, dtype=np.int64)
    count = 0
    for label in np.unique(labels):
        if label not in (0, label_maps.IGNORE):
            found, number = ndimage.label(labels == label, structure=np.ones((3, 3)))
            numbered[found > 0] = found[found > 0] + count
            count += number
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    rank = np.zeros(count + 1, dtype=np.int64)
    rank[1 + np.argsort(-sizes, kind="stable")] = 1 + np.arange(count)
    result = np.minimum(rank, label_maps.IGNORE)[numbered].astype(np.uint8)
    result[labels == label_maps.IGNORE] = label_maps.IGNORE
    return result
