"""PASCAL VOC 2012's training set, augmented by the masks of SBD (Hariharan et al., 2011).

The augmented list has all images with masks in VOC or SBD, without VOC's validation set: 10,582
images.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.files.text_files import read_lines
from workflow_scripts.maskdistill.progress import progress


def augmented_names(voc: Path, sbd: Path) -> list[str]:
    """Names of the augmented training images, sorted.

    Args:
        voc: VOC's root, with ImageSets/Segmentation.
        sbd: folder of SBD with train.txt and val.txt.

    Raises:
        InputError: a list is missing.
    """
    lists = voc / "ImageSets" / "Segmentation"
    train, val = _names(lists / "train.txt"), _names(lists / "val.txt")
    return sorted((_names(sbd / "train.txt") | _names(sbd / "val.txt") | train) - val)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """The classes of one .mat file of SBD's folder `cls`.

    Returns:
        H x W uint8: 0 background, 1..20 classes.

    Raises:
        InputError: missing, damaged, or of another format.
    """
    try:
        with open(path, "rb") as file:
            labels = loadmat(file)["GTcls"]["Segmentation"][0, 0]
    except FileNotFoundError:
        raise InputError(f"{path}: no such mask; unpack the whole folder cls of SBD") from None
    except (
        OSError,
        MatReadError,
        NotImplementedError,  # what SciPy raises for files of MATLAB 7.3
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise InputError(f"{path}: not a mask of SBD ({error}); unpack SBD again") from error
    return np.ascontiguousarray(labels, dtype=np.uint8)


def write_augmentation(voc: Path, sbd: Path, output: Path) -> int:
    """Write the augmented list and its masks in VOC's layout.

    If both datasets have a mask of an image, VOC's is used, because it marks uncertain borders
    (255) and was drawn with more care.

    Args:
        voc: VOC's root, only read.
        sbd: folder of SBD with train.txt, val.txt and cls/, only read.
        output: folder for ImageSets/Segmentation/train_aug.txt and SegmentationClassAug/.

    Returns:
        The number of images in the list.

    Raises:
        InputError: a list or a mask is missing or damaged.
    """
    names = augmented_names(voc, sbd)
    masks = output / "SegmentationClassAug"
    masks.mkdir(parents=True, exist_ok=True)
    for name in progress(names, description="masks", unit="mask"):
        own = voc / "SegmentationClass" / f"{name}.png"
        if own.is_file():
            shutil.copyfile(own, masks / own.name)
        else:
            labels = read_mask(sbd / "cls" / f"{name}.mat")
            (masks / own.name).write_bytes(label_maps.encode_png(labels))
    path = output / "ImageSets" / "Segmentation" / "train_aug.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return len(names)


def _names(path: Path) -> set[str]:
    try:
        return {name for line in read_lines(path) for name in line.split()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such list; check the folders of VOC and SBD") from None
