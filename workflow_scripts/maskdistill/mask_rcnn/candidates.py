"""Predict the candidates of one shard of images, as rows of a `candidates` file."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from workflow_scripts.maskdistill.files import images
from workflow_scripts.maskdistill.files.shards import read_usable
from workflow_scripts.maskdistill.mask_rcnn.engines import Candidate, Predictor
from workflow_scripts.maskdistill.progress import progress_bar
from workflow_scripts.maskdistill.streaming import stream_batches


def candidate_rows(
    manifest: str | os.PathLike,
    root: str | os.PathLike,
    predictor: Predictor,
    *,
    batch_size: int,
    workers: int,
) -> Iterator[dict]:
    """Predict the candidates of a manifest's images; threads decode images ahead.

    Args:
        manifest: file of the shard's images; rows whose status is not 'ok' are skipped.
        root: folder that the manifest's file names are relative to.
        batch_size: the most images, all of one size, in one pass.
        workers: threads that decode images.

    Yields:
        Rows of the schema `candidates`, grouped by image and sorted by falling score. An image
        without candidates has one row in which candidate_id, cluster and score are null.

    Raises:
        InputError: an image of the manifest can no longer be read.
    """
    rows = read_usable(manifest)
    root = Path(root)

    def size(row: Mapping) -> tuple[int, int]:
        return row["height"], row["width"]

    def load(row: Mapping) -> np.ndarray:
        return predictor.prepare(images.read_listed(root / row["file_name"], size(row)))

    batches = stream_batches(
        rows,
        load,
        shape=size,
        pixels=lambda row: math.prod(predictor.input_size(size(row))),
        decoded=lambda row: math.prod(size(row)),
        batch_size=batch_size,
        workers=workers,
    )
    with progress_bar(total=len(rows), description="predict_candidates", unit="image") as bar:
        for batch in batches:
            found = predictor.predict_prepared([image for _, image in batch], size(batch[0][0]))
            for (row, _), candidates in zip(batch, found, strict=True):
                image = {name: row[name] for name in ("image_id", "height", "width")}
                yield from rows_of_image(image, candidates)
            bar.update(len(batch))


def rows_of_image(image: Mapping, candidates: list[Candidate]) -> Iterator[dict]:
    """The rows of one image.

    Args:
        image: row with image_id, height and width.
        candidates: its candidates by falling score.
    """
    if not candidates:
        yield dict(image)
    for number, candidate in enumerate(candidates):
        x, y, box_width, box_height = candidate.box
        yield image | {
            "candidate_id": number,
            "cluster": candidate.cluster,
            "score": candidate.score,
            "x": x,
            "y": y,
            "box_width": box_width,
            "box_height": box_height,
            "area": candidate.mask.area,
            "rle_counts": candidate.mask.rle_counts,
        }
