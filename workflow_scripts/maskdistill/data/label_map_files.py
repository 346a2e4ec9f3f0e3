"""Which images of PASCAL VOC have label maps; the maps themselves are not opened."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from workflow_scripts.maskdistill.data.datasets import ListedImage, names_in, voc_label_map


class LabelMapFiles:
    """The label maps of a dataset in PASCAL VOC's layout.

    Each folder is listed once, which is much faster than looking for the map of every image.

    Args:
        root: folder of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._names = functools.cache(lambda folder: frozenset(names_in(root / folder)))

    def missing(self, listed: Iterable[ListedImage], folders: Sequence[str]) -> list[str]:
        """The label maps that images lack, relative to the dataset's root.

        Images whose own file is missing need no label map, because they are not evaluated.

        Args:
            listed: images of a split.
            folders: folders of label maps; a map in any of them is enough. The result names those
                that could be in the first.
        """
        photographs = self._names("JPEGImages")
        maps = {name for folder in folders for name in self._names(folder)}
        names = (
            voc_label_map(folders[0], image.file_name)
            for image in listed
            if PurePosixPath(image.file_name).name in photographs
        )
        return [name for name in names if PurePosixPath(name).name not in maps]
