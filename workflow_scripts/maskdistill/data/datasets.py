"""Lists the images of a dataset: adapters for a plain folder, PASCAL VOC and COCO.

An image is named by its POSIX path relative to the dataset's root. Its id is the dataset's own
(COCO) or a hash of that path, and its shard is another hash of the path, so that neither changes
when other images are added or removed.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from workflow_scripts.maskdistill.data import folders
from workflow_scripts.maskdistill.errors import InputError, printable
from workflow_scripts.maskdistill.files import images
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.files.text_files import read_lines
from workflow_scripts.maskdistill.repository import find_file

# Keys of `dataset.splits`: images to train on, to evaluate on, and to measure AP of masks on.
SPLITS = ("train", "val", "instances")

# Origins of data whose changes Snakemake sees through a rule's output; they need no digest.
WATCHED_ORIGINS = ("generated", "downloaded")

# Folders of PASCAL VOC's label maps; the first folder of classes that has an image's map is used.
VOC_CLASSES = ("SegmentationClass", "SegmentationClassAug")  # the second is for train_aug
VOC_OBJECTS = "SegmentationObject"
LEGEND = "labelmap.txt"  # CVAT's file with the name and colour of each class of coloured label maps


class ListedImage(NamedTuple):
    """One image of a dataset; its file has not been opened."""

    image_id: int
    file_name: str  # POSIX, relative to the dataset's root


File = TypeVar("File", ListedImage, folders.FoundFile)


class Listing(NamedTuple):
    """What a split consists of."""

    images: list[ListedImage]  # ordered by file name
    skipped: list[folders.FoundFile]  # other files of a plain folder; empty for VOC and COCO


def list_images(dataset: Mapping, root: Path, split: str) -> list[ListedImage]:
    """All images of a split, see `list_split`."""
    return list_split(dataset, root, split).images


def list_split(dataset: Mapping, root: Path, split: str) -> Listing:
    """All images of a split, and what is skipped in its folder.

    Args:
        dataset: the dataset's description in the config: adapter and the paths of each split.
        root: folder that the paths are relative to.
        split: a key of the dataset's `splits`.

    Raises:
        InputError: a folder or list is missing, names are listed twice, or nothing is found.
    """
    adapter = _ADAPTERS[dataset["adapter"]]
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set `root` in the dataset's config")
    found = sorted(adapter(dataset["splits"][split], root), key=lambda file: file.file_name)
    listed = [file for file in found if isinstance(file, ListedImage)]
    skipped = [file for file in found if not isinstance(file, ListedImage)]
    if not listed:
        kinds = "; ".join(folders.lines(folders.by_type(skipped))) or "it is empty"
        raise InputError(f"{root}: no images for the split '{split}': {kinds}")
    for what, values in (
        ("file name", [image.file_name for image in listed]),
        ("image id", [image.image_id for image in listed]),
    ):
        if len(set(values)) < len(values):
            seen: set = set()
            twice = next(value for value in values if value in seen or seen.add(value))
            raise InputError(
                f"{root}: {what} {twice!r} is listed twice in the split '{split}'; remove one entry"
            )
    return Listing(listed, skipped)


def described(dataset: Mapping, split: str | None, applied: Mapping[str, str]) -> Mapping:
    """The adapter, splits and root with which to find the images of a split.

    Args:
        dataset: the dataset's description in the config.
        split: a key of the dataset's `splits` or of `applied`.
        applied: name of a split of new images → its folder.
    """
    if split in applied:
        return {"adapter": "folder", "splits": {split: "."}, "root": applied[split]}
    return dataset


def shard_of(file_name: str, shards: int) -> int:
    """The shard of an image, 0..shards - 1, by a stable hash of its relative path."""
    return _hash(f"shard:{file_name}") % shards


def images_of_shard(listed: Iterable[File], shard: int, shards: int) -> list[File]:
    """The images, or other files, that belong to one shard."""
    return [file for file in listed if shard_of(file.file_name, shards) == shard]


def listing_digest(listed: Iterable[ListedImage], root: Path) -> str:
    """A digest of names, ids and sizes in bytes: it changes when an image is added or replaced.

    File times are left out, so that a copy of a dataset has the same digest.
    """
    digest = hashlib.sha256()
    for image in listed:
        try:
            size = os.stat(root / image.file_name).st_size
        except OSError:
            size = -1
        digest.update(f"{image.image_id}\0{image.file_name}\0{size}\n".encode())
    return digest.hexdigest()


def labels_digest(
    dataset: Mapping, root: Path, split: str, listed: Iterable[ListedImage], *, objects: bool
) -> str:
    """A digest of the labels of a split: of file names and sizes; for COCO, of the whole file.

    Args:
        dataset: the dataset's description in the config.
        root: folder that its paths are relative to.
        split: a key of the dataset's `splits`.
        listed: images of the split.
        objects: whether to include label maps of objects, and not only those of classes.
    """
    if dataset["adapter"] == "coco":
        with open(root / dataset["splits"][split]["annotations"], "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    folders = [*VOC_CLASSES, VOC_OBJECTS] if objects else VOC_CLASSES
    files = sorted(image.file_name for image in listed)
    names = (voc_label_map(folder, file_name) for file_name in files for folder in folders)
    digest = listing_digest((ListedImage(0, name) for name in names), root)
    if (root / LEGEND).is_file():
        digest = hashlib.sha256(digest.encode() + (root / LEGEND).read_bytes()).hexdigest()
    return digest


def voc_label_map(folder: str, file_name: str) -> str:
    """The label map of an image of PASCAL VOC, relative to the dataset's root."""
    return f"{folder}/{PurePosixPath(file_name).stem}.png"


def check_rejected(rows: Collection[Mapping], max_rejected: tuple[float, float], what: str) -> None:
    """Stop when too many images cannot be read.

    Args:
        rows: rows (file_name, status) of all manifests of a split, or of one shard.
        max_rejected: tolerated share of the images, 0..1, and a number that is always tolerated,
            for small datasets.
        what: name of the images in the message.

    Raises:
        InputError: names the first of these images, with their reasons.
    """
    rejected = [row for row in rows if row["status"] != "ok"]
    share, count = max_rejected
    if len(rejected) > max(share * len(rows), count):
        examples = "; ".join(
            f"{printable(row['file_name'])}: {row['status']}" for row in rejected[:5]
        )
        raise InputError(
            f"{what}: {len(rejected)} of {len(rows)} images cannot be used ({examples}; …); "
            "repair them, or raise images.max_rejected or images.max_rejected_count"
        )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _image_id(file_name: str) -> int:
    """An id of 52 bits, which a float64 and so JavaScript can hold exactly."""
    return _hash(f"image:{file_name}") >> 12


def _list_folder(split: str, root: Path) -> Iterable[ListedImage | folders.FoundFile]:
    """A tree of images, at any depth; `split` is a sub-folder or "." for all of it."""
    folder = root / split
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check `splits` in the dataset's config")
    for file in folders.walk(folder, root):
        name = file.file_name
        yield ListedImage(_image_id(name), name) if file.skipped is None else file


def _list_voc(split: str, root: Path) -> Iterable[ListedImage]:
    """PASCAL VOC; `split` names a list in ImageSets/Segmentation, or a file relative to root."""
    path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not path.is_file():
        path = root / split
    if not path.is_file():
        raise InputError(
            f"{root}: no list ImageSets/Segmentation/{split}.txt, nor a file {split}; check "
            "`splits` in the dataset's config"
        )
    files = voc_images(root)
    for line in read_lines(path):
        if line.strip():
            words = line.split()
            # Lines of other tools are "path/of/image.jpg path/of/image.png", with the label map as
            # the second path. Lines of VOC's lists for one class are "image 1".
            labelled = len(words) == 2 and _voc_stem(words[0]) == _voc_stem(words[1])
            name = None if labelled else _voc_name(line.strip(), files, path)
            if name is None:
                name = _voc_name(words[0], files, path)
            name = f"JPEGImages/{name or _voc_stem(words[0]) + '.jpg'}"
            yield ListedImage(_image_id(name), name)


def voc_images(root: Path) -> dict[str, list[str]]:
    """Stem → names of the image files in JPEGImages, of any type; empty without that folder."""
    found: dict[str, list[str]] = {}
    for name in sorted(names_in(root / "JPEGImages")):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in images.SUFFIXES:
            found.setdefault(stem, []).append(name)
    return found


def names_in(folder: Path) -> list[str]:
    """The names of what is in a folder; empty if there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _voc_name(listed: str, files: Mapping[str, Sequence[str]], source: Path) -> str | None:
    """The file in JPEGImages that an entry of a list means; None if there is no such file.

    Args:
        listed: the entry, which may lack the folder and the suffix.
        files: result of `voc_images`.
        source: the list, for messages.

    Raises:
        InputError: several files fit, but none has exactly the listed name or the suffix .jpg.
    """
    name, stem = PurePosixPath(listed).name, _voc_stem(listed)
    found = files.get(stem, ())
    for preferred in (name, f"{stem}.jpg"):
        if preferred in found:
            return preferred
    if len(found) > 1:
        raise InputError(
            f"{source}: {listed!r} may be {' or '.join(found)} in JPEGImages; write the suffix, too"
        )
    return found[0] if found else None


def _voc_stem(listed: str) -> str:
    name = PurePosixPath(listed).name
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in images.SUFFIXES else name


def _list_coco(split: Mapping, root: Path) -> Iterable[ListedImage]:
    """COCO; `split` has `annotations`, `images` and optionally `image_list` or `excluded_list`."""
    entries = coco_images(str(root / split["annotations"]))
    names = {image_id: PurePosixPath(name).name for image_id, name in entries.items()}
    excluded = split.get("excluded_list")
    left_out = set(read_image_list(excluded)) if excluded else set()
    listed = None
    if split.get("image_list"):
        listed = set(read_image_list(split["image_list"]))
        if absent := listed - set(names.values()) - set(map(str, names)):
            raise InputError(
                f"{split['image_list']}: {len(absent)} listed images are not in "
                f"{split['annotations']}, for instance {min(absent)}"
            )
    for image_id, name in entries.items():
        known_as = {names[image_id], str(image_id)}
        if (listed is None or known_as & listed) and not known_as & left_out:
            file_name = (PurePosixPath(split["images"]) / name).as_posix()
            yield ListedImage(image_id, file_name)


def read_image_list(path: str | os.PathLike) -> list[str]:
    """The lines of an image list: ids, or file names without folders.

    Raises:
        InputError: there is no such file, or it is not in UTF-8.
    """
    try:
        lines = read_lines(find_file(path))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such list of images; check `splits` in the dataset's config"
        ) from None
    return [PurePosixPath(line.strip()).name for line in lines if line.strip()]


@functools.lru_cache(maxsize=4)
def coco_images(path: str) -> dict[int, str]:
    """image id → file name of a COCO annotation file.

    Raises:
        InputError: an id occurs twice, or the file is not in COCO's format.
    """
    names: dict[int, str] = {}
    for image in read_coco(path)["images"]:
        if names.setdefault(image["id"], image["file_name"]) != image["file_name"]:
            raise InputError(f"{path}: the image id {image['id']} occurs twice")
    return names


def read_coco(path: str | os.PathLike) -> dict:
    """Parse a COCO annotation file; every image in it has `file_name` and, as a number, `id`.

    Raises:
        InputError: missing, not JSON, or without a valid list of images.
    """
    content = read_json(path, remedy="check `annotations` in the config of the dataset")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(f"{path}: not a COCO annotation file: it has no list `images`")
    for number, image in enumerate(content["images"]):
        what = f"{path}: images[{number}]"
        if not isinstance(image, dict):
            raise InputError(f"{what} is {image!r}, not an object with `id` and `file_name`")
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise InputError(f"{what} has no `file_name`; name its file, or remove it")
        image["id"] = coco_id(image, "id", what)
    return content


def coco_id(entry: Mapping, key: str, what: str) -> int:
    """An id in an entry of a COCO file, where it may also be given as text.

    Args:
        key: key of the id in `entry`.
        what: name of the file and the entry in the message.

    Raises:
        InputError: the entry has no such id.
    """
    value = entry.get(key)
    try:
        if isinstance(value, int | str) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise InputError(f"{what}: `{key}` is {value!r}; it must be a whole number")


_ADAPTERS: dict[str, Callable[..., Iterable[ListedImage]]] = {
    "folder": _list_folder,
    "voc": _list_voc,
    "coco": _list_coco,
}
