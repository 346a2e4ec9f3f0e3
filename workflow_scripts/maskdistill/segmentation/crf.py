"""Refinement of label maps by a fully connected CRF, for several images in parallel processes."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from workflow_scripts.maskdistill.files.image_sizes import bounded_size, resize
from workflow_scripts.maskdistill.segmentation.dense_crf import refine
from workflow_scripts.maskdistill.segmentation.upsampling import enlarged_classes
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings
from workflow_scripts.maskdistill.streaming import map_ahead

# The most probabilities (pixels x labels) in memory that are being refined or wait to be refined:
# about as many as three COCO images with 81 labels have. Refining takes about 45 bytes for each.
VALUES_AHEAD = 75_000_000


def refined_labels(
    probabilities: np.ndarray,
    image: np.ndarray,
    settings: CRFSettings,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """The most probable class of every pixel after `refine`: uint16.

    An image whose longer side is above `settings.longer_side` is reduced to it before `refine`.

    Args:
        probabilities: classes x h x w, float32, at the size of `image` or at its reduced size.
        image: H x W x 3, uint8, RGB.
        size: (height, width) of the label map, to which the refined probabilities are resized;
            None for the size of `image`.
    """
    size = size or image.shape[:2]
    seen = bounded_size(*image.shape[:2], settings.longer_side)
    if probabilities.shape[1:] == image.shape[:2] != seen:
        probabilities = F.interpolate(
            torch.from_numpy(probabilities)[None], seen, mode="bilinear", antialias=True
        )[0].numpy()
    image = resize(image, seen)
    refined = refine(probabilities, image, settings)
    labels = refined.argmax(axis=0).astype(np.uint16)
    if size == seen:
        return labels
    return enlarged_classes(labels, size, lambda some: torch.from_numpy(refined[some]))


class Item(NamedTuple):
    """A prediction that is to be refined, for one image."""

    image_id: int
    probabilities: np.ndarray  # classes x h x w, float32
    image: np.ndarray  # H x W x 3, uint8, RGB
    size: tuple[int, int]  # (height, width) of the label map


class Workers:
    """Processes that refine label maps while the model predicts the next images.

    `start_workers` makes them.
    """

    def __init__(
        self, pool: concurrent.futures.Executor, count: int, settings: CRFSettings
    ) -> None:
        self._pool, self._count, self._settings = pool, count, settings

    def refine(self, items: Iterable[Item]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (image_id, label map) for every item, in order.

        The probabilities of at most one image per process and one further image are in memory,
        and of fewer images if these have more than `VALUES_AHEAD` values together.
        """
        yield from map_ahead(
            self._pool,
            functools.partial(_refined_item, self._settings),
            items,
            ahead=self._count,
            weight=lambda item: item.probabilities.size,
            most_weight=VALUES_AHEAD,
        )


def _refined_item(settings: CRFSettings, item: Item) -> tuple[int, np.ndarray]:
    image_id, probabilities, image, size = item
    return image_id, refined_labels(probabilities, image, settings, size)


@contextlib.contextmanager
def start_workers(count: int, settings: CRFSettings) -> Iterator[Workers]:
    """Start `count` processes; threads would not help, because pydensecrf holds Python's GIL.

    Enter this context before loading a model, because the processes are forked, and a fork is only
    safe before the program uses a GPU or starts threads.
    """
    count = max(1, count)
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(count, context, _start_process) as pool:
        # With the start method fork, the first task starts all processes of the pool.
        pool.submit(int).result()
        yield Workers(pool, count, settings)


def _start_process() -> None:
    """Prepare a new process: it computes in one thread, and ends when its parent ends.

    With several threads, OpenMP would wait for threads of the parent, which a forked process does
    not have. If it did not end with its parent, the process would wait for work forever.
    """
    torch.set_num_threads(1)

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
