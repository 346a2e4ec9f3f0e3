"""YOLO's segmentation format: one text file per image, one polygon per object.

Lossy: borders move by up to `exports.polygon_tolerance` pixels and scores are left out. Parts and
holes of an object are joined to one ring by cuts of zero width.
"""

from pathlib import Path

import yaml

from workflow_scripts.maskdistill.exports import polygons
from workflow_scripts.maskdistill.exports.content import Content, Picture, copy_image
from workflow_scripts.maskdistill.files import masks


def write(content: Content, folder: Path) -> None:
    """Write images, labels and data.yaml; class 0 is the first pseudo-class."""
    for picture in content.pictures():
        copy_image(
            content.root / picture.file_name, folder / "images" / content.split / picture.name
        )
        path = folder / "labels" / content.split / picture.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(picture, content.polygon_tolerance), encoding="ascii")
    # YOLO's training needs a train and a val split, but the export has only one split.
    images = f"images/{content.split}"
    data = {"train": images, "val": images, "names": dict(enumerate(content.names))}
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def lines(picture: Picture, tolerance: float) -> str:
    """One line per object: class, then x and y of every point relative to width and height."""
    result = []
    for row in picture.objects:
        mask = masks.decode_row(row)
        ring = polygons.join(polygons.trace(mask, tolerance))
        shares = ring / (picture.width, picture.height)
        points = " ".join(f"{value:.6f}" for value in shares.ravel().tolist())
        result.append(f"{row['cluster'] - 1} {points}\n")
    return "".join(result)
