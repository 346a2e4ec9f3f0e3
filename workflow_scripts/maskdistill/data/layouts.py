"""Recognising how the images and labels of a new folder are laid out."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow_scripts.maskdistill.data.datasets import (
    LEGEND,
    VOC_CLASSES,
    VOC_OBJECTS,
    list_images,
)
from workflow_scripts.maskdistill.data.ground_truth import GroundTruth
from workflow_scripts.maskdistill.data.label_map_files import LabelMapFiles
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings.layers import read_yaml

_LOOKED_AT = 2000  # number of label maps that are read to find the number of classes
_TRIED = 20  # number of images whose labels are read to check that labels can be read
_VOC_NAME = re.compile(r"(20\d\d_)?\d{6}")  # of an image of PASCAL VOC
_VOC_CONFIG = "config/datasets/voc2012.yaml"


class Layout(NamedTuple):
    """The layout that a folder seems to have."""

    dataset: dict[str, Any]  # the section `dataset` of the config
    title: str  # the layout in words
    notes: list[str]  # what was guessed, or why labels are not used
    classes: int | None  # number of classes, if there are labels
    objects: bool = True  # whether labels tell single objects apart; no meaning without labels


def recognise(root: Path) -> Layout:
    """The layout of a folder: PASCAL VOC, COCO, or any tree of images.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder of your images")
    for recognised in (_voc, _coco):
        found = recognised(root)
        if found is not None:
            return _with_usable_labels(found, root)
    dataset = {"root": str(root), "adapter": "folder", "splits": {"train": "."}}
    return Layout(dataset, "a folder of images without labels", [], None)


def _with_usable_labels(found: Layout, root: Path) -> Layout:
    """The layout; if its labels cannot be read, without ground truth and with a note on why."""
    dataset = found.dataset
    if not dataset.get("ground_truth"):
        return found
    split = "val" if "val" in dataset["splits"] else "train"
    try:
        truth = GroundTruth({**dataset, "label_orientation": "upright"}, root, split)
        images = list_images(dataset, root, split)
        without_objects = []
        if dataset["adapter"] == "voc":
            files = LabelMapFiles(root)
            if unlabelled := files.missing(images, VOC_CLASSES):
                raise InputError(_lacking(unlabelled, "label map", split, len(images)))
            without_objects = files.missing(images, [VOC_OBJECTS])
        for image in images[:_TRIED]:
            truth.semantic(image.image_id, image.file_name)
    except InputError as error:
        note = f"the labels cannot be used, so there is no evaluation: {error}"
        dataset = {key: value for key, value in dataset.items() if key != "classes"}
        without = {**dataset, "ground_truth": False}
        return Layout(without, f"{found.title}, without usable labels", [*found.notes, note], None)
    notes = found.notes
    if 0 < len(without_objects) < len(images):
        notes = [*notes, _lacking(without_objects, "map of their objects", split, len(images))]
    return found._replace(notes=notes, classes=len(truth.class_names), objects=not without_objects)


def _voc(root: Path) -> Layout | None:
    if not (root / "JPEGImages").is_dir():
        return None
    lists = sorted(path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt"))
    if not lists:
        dataset = {"root": str(root), "adapter": "folder", "splits": {"train": "JPEGImages"}}
        return Layout(dataset, "PASCAL VOC's images without lists of images", [], None)
    learned = next((name for name in ("train", "trainval", "default") if name in lists), lists[0])
    splits = {"train": learned}
    if "val" in lists and learned != "val":
        splits["val"] = "val"
    dataset: dict[str, Any] = {"root": str(root), "adapter": "voc", "splits": splits}
    notes = []
    if len(lists) > len(splits):
        notes.append(f"lists of images to choose splits from: {', '.join(lists)}")
    labels = _label_maps(root)
    if not labels:
        return Layout({**dataset, "ground_truth": False}, "PASCAL VOC without labels", notes, None)
    names, note = _voc_classes(root, labels)
    notes += [note] if note else []
    dataset |= {"ground_truth": True, "classes": names}
    return Layout(dataset, "PASCAL VOC with label maps", notes, len(names))


def _lacking(missing: Sequence[str], what: str, split: str, images: int) -> str:
    """A phrase that says how many images of a split have no label map.

    Args:
        missing: result of `LabelMapFiles.missing`.
        what: name of the label maps.
        images: number of all images of the split.
    """
    return (
        f"{len(missing):,} of {images:,} images of the split '{split}' have no {what}, for example "
        f"{missing[0]}"
    )


def _label_maps(root: Path) -> list[Path]:
    return sorted(path for folder in VOC_CLASSES for path in (root / folder).glob("*.png"))


def _voc_classes(root: Path, labels: list[Path]) -> tuple[list[str], str | None]:
    """Names of the classes of label maps, and a note if they had to be guessed."""
    if (root / LEGEND).is_file():
        names = [*label_maps.read_legend(root / LEGEND)]
        return [name for name in names if name != "background"], None
    most = 0
    for path in labels[:_LOOKED_AT]:
        try:
            values = label_maps.without_ignore(label_maps.read_png(path))
        except InputError:
            break  # `_with_usable_labels` says why
        most = max(most, int(np.max(values)))
    published = read_yaml(REPOSITORY / _VOC_CONFIG)["dataset"]["classes"]
    if most <= len(published) and all(_VOC_NAME.fullmatch(path.stem) for path in labels):
        return published, None
    looked = f"the first {_LOOKED_AT:,} label maps" if len(labels) > _LOOKED_AT else "label maps"
    note = (
        f"{looked} have the classes 1 to {most}, whose names are not known; write them to "
        "dataset.classes"
    )
    return [f"class_{number}" for number in range(1, max(1, most) + 1)], note


def _coco(root: Path) -> Layout | None:
    splits: dict[str, dict[str, str]] = {}
    notes = []
    files = [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]
    # Files of a test split come last, so that they are used only if there are no others.
    files.sort(key=lambda path: ("test" in _words(path), "train" not in _words(path)))
    for path in files:
        content = _annotations(path)
        if content is None:
            continue
        split = "val" if _words(path) & {"val", "valid", "validation"} else "train"
        name = path.relative_to(root).as_posix()
        names = [image.get("file_name") or "" for image in content["images"]]
        folder = _image_folder(root, names, path.stem)
        if folder is None:
            notes.append(f"{name}: not used, because its images were not found")
        elif split in splits or (splits and "test" in _words(path)):
            used = splits.get(split) or next(iter(splits.values()))
            notes.append(f"{name}: not used, because {used['annotations']} is used")
        else:
            splits[split] = {"annotations": name, "images": folder}
    if not splits:
        return None
    if "train" not in splits:
        splits = {"train": splits["val"]}
    ordered = {split: splits[split] for split in ("train", "val") if split in splits}
    dataset = {"root": str(root), "adapter": "coco", "splits": ordered, "ground_truth": True}
    return Layout(dataset, "COCO with annotations", notes, None)


def _words(path: Path) -> set[str]:
    """The words in a file's name: instances and val of instances_val2017.json."""
    return set(re.findall("[a-z]+", path.stem.lower()))


def _annotations(path: Path) -> Mapping | None:
    """Content of a COCO file with images, annotations and categories; None for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    entries = [content.get(key) for key in ("images", "annotations", "categories")]
    if not all(isinstance(one, list) and one and isinstance(one[0], dict) for one in entries):
        return None
    return content if all(isinstance(image, dict) for image in content["images"]) else None


def _image_folder(root: Path, names: Sequence[str], title: str) -> str | None:
    """The folder that the file names of annotations are relative to.

    Args:
        title: name of the annotation file; a folder whose name is a part of it is tried first.
    """
    first = [str(name) for name in names[:3] if name]
    below = [path for path in sorted(root.glob("*")) if path.is_dir()]
    deeper = [path for folder in below for path in sorted(folder.glob("*")) if path.is_dir()]
    for folder in sorted((root, *below, *deeper), key=lambda path: path.name not in title):
        if first and all((folder / name).is_file() for name in first):
            return folder.relative_to(root).as_posix()
    return None
