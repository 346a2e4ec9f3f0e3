"""Labels of PASCAL VOC and COCO datasets, which only the evaluation reads."""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from workflow_scripts.maskdistill.data.datasets import (
    LEGEND,
    VOC_CLASSES,
    VOC_OBJECTS,
    WATCHED_ORIGINS,
    ListedImage,
    coco_id,
    labels_digest,
    read_coco,
    voc_label_map,
)
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import images, label_maps

# Largest valid coordinate of a polygon's point, in pixels from the image's corner.
_FARTHEST = 1e6


class Instance(NamedTuple):
    """One annotated object."""

    mask: np.ndarray  # H x W bool
    class_id: int  # 1..K
    crowd: bool


def has_ground_truth(dataset: Mapping) -> bool:
    """Whether the dataset's description in the config says that it has labels."""
    return bool(dataset["ground_truth"])


def require_labels(
    digest: str,
    dataset: Mapping,
    root: Path,
    split: str,
    images: Iterable[Mapping],
    *,
    objects: bool = False,
) -> None:
    """Check that the labels of images have not changed since the workflow was started.

    Args:
        digest: result of `datasets.labels_digest` at the start. If it is empty or one of
            `datasets.WATCHED_ORIGINS`, nothing is checked.
        dataset: the dataset's description in the config.
        root: folder that its paths are relative to.
        split: a key of the dataset's `splits`.
        images: rows of the manifest, in any order.
        objects: whether label maps of objects are read, too, and not only those of classes.

    Raises:
        InputError: labels were added, removed or replaced since then.
    """
    if digest in ("", *WATCHED_ORIGINS):
        return
    listed = (ListedImage(row["image_id"], row["file_name"]) for row in images)
    if labels_digest(dataset, root, split, listed, objects=objects) != digest:
        raise InputError(
            f"{root}: labels of the split '{split}' have changed since this run of the workflow "
            "was started; start snakemake again"
        )


class GroundTruth:
    """The labels of one split.

    Args:
        dataset: the dataset's description in the config.
        root: folder that its paths are relative to.
        split: a key of the dataset's `splits`.

    Raises:
        InputError: the config says that there are no labels, or the labels are missing; a class
            name is not unique; or an entry of COCO's file is invalid, which the message names.
    """

    def __init__(self, dataset: Mapping, root: Path, split: str) -> None:
        self._root = root
        self._adapter = dataset["adapter"]
        self._label_orientation = dataset.get("label_orientation", "auto")
        self._stored_size = functools.cache(self._read_stored_size)
        self._turned: set[str] = set()  # images whose labels were turned like the photograph
        self._legend: dict[tuple[int, int, int], str] | None = None  # colour → name
        if not has_ground_truth(dataset):
            raise InputError(f"{root}: the config says that this dataset has no ground truth")
        if self._adapter == "voc":
            self.class_names = tuple(dataset["classes"])
            self._path = root / VOC_CLASSES[0]
            if not any((root / folder).is_dir() for folder in VOC_CLASSES):
                raise InputError(
                    f"{self._path}: no such folder; if there are no labels, set ground_truth: false"
                )
            if (root / LEGEND).is_file():
                legend = label_maps.read_legend(root / LEGEND)
                self._legend = {colour: name for name, colour in legend.items()}
        else:
            self._path = root / dataset["splits"][split]["annotations"]
            content = read_coco(self._path)
            categories = _categories(content, self._path)
            self.class_names = tuple(categories.values())
            self._class_ids = {number: i for i, number in enumerate(categories, start=1)}
            self._sizes = _sizes(content, self._path)
            self._annotations = _annotations(content, self._path, self._sizes, categories)
        _check_class_names(self.class_names, self._path)

    def print_turned(self) -> None:
        """Print the number of images read so far whose labels were turned, unless it is 0."""
        if self._turned:
            print(
                f"{len(self._turned):,} images have labels that were drawn on the stored pixels; "
                "these labels were turned as EXIF turns the photographs, for example "
                f"{min(self._turned)}"
            )

    def semantic(self, image_id: int, file_name: str) -> np.ndarray:
        """The label map of one image.

        In COCO, smaller objects cover larger ones, and crowd regions are labelled as ignore. Labels
        that were drawn on the stored pixels of a photograph are turned as EXIF turns it; see the
        setting `dataset.label_orientation`.

        Returns:
            H x W uint8 (uint16 beyond 254 classes): 0 background, 1..K classes, and 255 ignore.

        Raises:
            InputError: the label map is missing or damaged, or its size does not show whether it
                has to be turned.
        """
        if self._adapter == "voc":
            return self._upright(self._voc_classes(file_name), file_name)
        instances = self._coco_instances(image_id, file_name)
        labels = np.zeros(
            self._size(image_id, file_name), dtype=label_maps.dtype(len(self.class_names))
        )
        for instance in instances:
            if instance.crowd:
                labels[instance.mask] = label_maps.ignore_value(labels)
        for instance in sorted(instances, key=lambda i: -int(i.mask.sum())):
            if not instance.crowd:
                labels[instance.mask] = instance.class_id
        return self._upright(labels, file_name)

    def instances(self, image_id: int, file_name: str) -> list[Instance]:
        """The annotated objects of one image, turned upright in the same way as by `semantic`.

        Raises:
            InputError: missing or damaged label map.
        """
        read = self._voc_instances if self._adapter == "voc" else self._coco_instances
        return [
            instance._replace(mask=self._upright(instance.mask, file_name))
            for instance in read(image_id, file_name)
        ]

    def _upright(self, labels: np.ndarray, file_name: str) -> np.ndarray:
        """Labels of an image, turned as EXIF turns it if they were drawn on its stored pixels."""
        orientation = self._label_turn(file_name, labels.shape)
        if orientation == 1:
            return labels
        self._turned.add(file_name)
        return np.ascontiguousarray(images.turned(labels, orientation))

    def _label_turn(self, file_name: str, size: tuple[int, int]) -> int:
        """The EXIF orientation by which labels of this (height, width) have to be turned."""
        if self._label_orientation == "upright":
            return 1
        stored, orientation = self._stored_size(file_name)
        if orientation == 1 or size != stored:
            return 1
        if self._label_orientation == "auto" and size == images.turned_size(stored, orientation):
            raise InputError(
                f"{self._root / file_name}: EXIF turns this photograph (orientation "
                f"{orientation}), and its labels have the size of both the stored and the turned "
                "one; set dataset.label_orientation to upright if they were drawn on photographs "
                "as they are shown, else to stored"
            )
        return orientation

    def _read_stored_size(self, file_name: str) -> tuple[tuple[int, int], int]:
        try:
            return images.stored_size(self._root / file_name)
        except images.ImageRejected:
            return (0, 0), 1  # does not matter: images that cannot be read are not evaluated

    def _coco_instances(self, image_id: int, file_name: str) -> list[Instance]:
        """The objects, with masks of the height and width that the annotation file gives."""
        size = self._size(image_id, file_name)
        return [
            Instance(
                _annotation_mask(annotation["segmentation"], size),
                self._class_ids[annotation["category_id"]],
                bool(annotation.get("iscrowd", 0)),
            )
            for annotation in self._annotations.get(image_id, [])
        ]

    def _size(self, image_id: int, file_name: str) -> tuple[int, int]:
        if image_id not in self._sizes:
            raise InputError(
                f"{self._path}: has no image {image_id} ({file_name}) any more; "
                "run list_images again"
            )
        return self._sizes[image_id]

    def _voc_classes(self, file_name: str) -> np.ndarray:
        paths = [self._root / voc_label_map(folder, file_name) for folder in VOC_CLASSES]
        path = next(filter(Path.is_file, paths), paths[0])
        if self._legend is None:
            return label_maps.read_png(path)

        def label_of(colour: tuple[int, int, int]) -> int:
            name = self._legend.get(colour)
            if name is None and colour == label_maps.VOID_COLOUR:
                return label_maps.ignore_value(np.empty(0, label_maps.dtype(classes)))
            if name == "background":
                return 0
            if name in self.class_names:
                return self.class_names.index(name) + 1
            if name is not None:
                raise InputError(
                    f"{path}: has the class {name!r} of {LEGEND}, which dataset.classes lacks; add "
                    "it there"
                )
            raise InputError(
                f"{path}: has the colour {','.join(map(str, colour))}, which {LEGEND} lacks; add "
                "it there, or remove that file if the pixels hold numbers of classes"
            )

        classes = len(self.class_names)
        return label_maps.read_coloured_png(path, label_of, classes)

    def _voc_objects(self, path: Path) -> np.ndarray:
        """The map of an image's objects, 1, 2, …; with a legend, each colour is an object."""
        if self._legend is None:
            return label_maps.read_png(path)
        numbers: dict[tuple[int, int, int], int] = {(0, 0, 0): 0}

        def number_of(colour: tuple[int, int, int]) -> int:
            if colour == label_maps.VOID_COLOUR:
                return label_maps.IGNORE_16_BIT
            return numbers.setdefault(colour, len(numbers))

        return label_maps.read_coloured_png(path, number_of, label_maps.IGNORE)

    def _voc_instances(self, image_id: int, file_name: str) -> list[Instance]:
        path = self._root / voc_label_map(VOC_OBJECTS, file_name)
        objects = self._voc_objects(path)
        classes = self._voc_classes(file_name)
        if objects.shape != classes.shape:
            raise InputError(
                f"{path}: its size differs from that of the image's map of classes; correct one of "
                "the two maps"
            )
        found = []
        void = label_maps.ignore_value(objects)
        for value in np.unique(objects[(objects > 0) & (objects != void)]):
            mask = objects == value
            inside = classes[mask]
            inside = inside[(inside > 0) & (inside != label_maps.ignore_value(classes))]
            if not len(inside):
                raise InputError(
                    f"{path}: object {value} has no pixel of a class in the map of classes; "
                    "correct one of the two maps"
                )
            found.append(Instance(mask, int(np.bincount(inside).argmax()), False))
        return found


def _check_class_names(names: Sequence[str], path: Path) -> None:
    """Check names of classes, which become keys of the metrics next to `background`."""
    if not names:
        raise InputError(f"{path}: no classes; if there are no labels, set ground_truth: false")
    twice = {name for name in names if names.count(name) > 1}
    for name in sorted(twice | ({"background"} & {*names})):
        reason = "is reserved for pixels of no class" if name == "background" else "occurs twice"
        raise InputError(f"{path}: the class name {name!r} {reason}; rename the class")


# How to correct an invalid annotation, for messages.
_REMEDY = "correct or remove it, or set ground_truth: false"


def _list_of(content: Mapping, key: str, path: Path) -> Iterator[tuple[str, dict]]:
    """The entries of a list of a COCO file, each with its name in messages."""
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise InputError(f"{path}: `{key}` is not a list; {_REMEDY}")
    for number, entry in enumerate(entries):
        what = f"{path}: {key}[{number}]"
        if not isinstance(entry, dict):
            raise InputError(f"{what} is {entry!r}, not an object; {_REMEDY}")
        yield (f"{what} (id {entry['id']!r})" if "id" in entry else what), entry


def _categories(content: Mapping, path: Path) -> dict[int, str]:
    """id → name of the categories of a COCO file, by ascending ids."""
    found: dict[int, str] = {}
    for what, category in _list_of(content, "categories", path):
        number = coco_id(category, "id", what)
        if not isinstance(category.get("name"), str):
            raise InputError(f"{what}: no `name`; {_REMEDY}")
        if number in found:
            raise InputError(f"{what}: the id occurs twice; {_REMEDY}")
        found[number] = category["name"]
    return dict(sorted(found.items()))


def _sizes(content: Mapping, path: Path) -> dict[int, tuple[int, int]]:
    """id → (height, width) of the images of a COCO file."""
    found = {}
    for what, image in _list_of(content, "images", path):
        for key in ("height", "width"):
            if not isinstance(image.get(key), int) or image[key] < 1:
                raise InputError(
                    f"{what}: `{key}` is {image.get(key)!r}; write the {key} of the image in "
                    "pixels, or set ground_truth: false"
                )
        found[image["id"]] = (image["height"], image["width"])
    return found


def _annotations(
    content: Mapping, path: Path, sizes: Mapping[int, tuple[int, int]], categories: Collection[int]
) -> dict[int, list[dict]]:
    """Image id → its annotations, checked so that `_annotation_mask` can decode them.

    Annotations of images that the file does not list are left out.
    """
    found: dict[int, list[dict]] = {}
    for what, annotation in _list_of(content, "annotations", path):
        image_id = coco_id(annotation, "image_id", what)
        if image_id not in sizes:
            continue
        what = f"{what} of image {image_id}"
        category = coco_id(annotation, "category_id", what)
        if category not in categories:
            raise InputError(f"{what}: unknown category {category}; {_REMEDY}")
        if problem := _segmentation_problem(annotation.get("segmentation"), sizes[image_id]):
            raise InputError(f"{what}: {problem}; {_REMEDY}")
        annotation["category_id"] = category
        found.setdefault(image_id, []).append(annotation)
    return found


def _segmentation_problem(segmentation: object, size: tuple[int, int]) -> str | None:
    """Why `segmentation` is neither polygons nor run lengths of a mask; None if it is valid."""
    if isinstance(segmentation, list):
        if all(map(_is_polygon, segmentation)):
            return None
        return "`segmentation` has a polygon that is not a list of x, y, x, y, … in pixels"
    if not isinstance(segmentation, Mapping):
        return f"`segmentation` is {segmentation!r}; the evaluation needs a mask, not only a box"
    if segmentation.get("size") != list(size):
        return f"`segmentation.size` is {segmentation.get('size')}, the image is {list(size)}"
    counts = segmentation.get("counts")
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(n, int) and n >= 0 for n in runs):
        return "`segmentation.counts` are not run lengths"
    if sum(runs) != size[0] * size[1]:
        return f"`segmentation.counts` add up to {sum(runs)}, not to {size[0] * size[1]} pixels"
    return None


def _run_lengths(counts: str) -> list[int] | None:
    """Run lengths of COCO's compressed text; None if it is invalid.

    pycocotools does not check this: on invalid text it reads and writes outside of its memory.
    """
    codes = np.frombuffer(counts.encode(errors="replace"), np.uint8).astype(np.int64) - 48
    # Base-32 digits, the lowest first; a continuation bit marks all but the last digit of a number.
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] > 31:
        return None
    last = np.flatnonzero(codes < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:
        return None  # beyond 2^31
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, 1 << (5 * (last - first + 1)), 0)
    # From the fourth number on, each is stored as its difference to the second number before it.
    for begin in (1, 2):
        numbers[begin::2] = np.cumsum(numbers[begin::2])
    return numbers.tolist()


def _is_polygon(points: object) -> bool:
    if not isinstance(points, list) or len(points) % 2:
        return False
    try:
        values = np.array(points, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    # Large coordinates would take long, because pycocotools walks along the border pixel by pixel.
    return values.ndim == 1 and bool((np.abs(values) <= _FARTHEST).all())


def _annotation_mask(segmentation: list | Mapping, size: tuple[int, int]) -> np.ndarray:
    """Decode polygons, or run lengths (uncompressed or compressed), to an H x W bool mask."""
    if isinstance(segmentation, list):
        # Points and lines enclose no pixels, and pycocotools refuses them.
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros(size, dtype=bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, *size)
    else:
        rle = segmentation
    return coco_mask.decode(rle).astype(bool)
